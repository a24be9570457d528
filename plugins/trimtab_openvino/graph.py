"""Reading networks into OpenVINO, and writing them as small files that are equal for equal networks."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import openvino
from openvino import passes

from trimtab.artifact import ONNX, OPENVINO

__all__ = ["FILES", "MAIN", "NAMED", "fold", "read", "write"]

FILES = {ONNX: "model.onnx", OPENVINO: "model.xml"}
MAIN = ("probabilities", "predictions")
"""What a model may call its answer: of a classification, of a regression."""
NAMED = (*MAIN, "embedding")


def read(path: Path) -> openvino.Model:
    """Read a network.

    Raises
    ------
    RuntimeError
        When OpenVINO cannot read it.
    """
    return openvino.Core().read_model(str(path))


def fold(network: openvino.Model) -> openvino.Model:
    """Compute now what depends on constants alone, and return the network: half of what the ONNX reader leaves.

    Only before quantization: of a quantized network it would compute the weights back into float.
    """
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(network)
    return network


def write(network: openvino.Model, folder: Path) -> None:
    """Write ``model.xml`` and ``model.bin`` without names of inner layers, shapes that are inferred, and blanks.

    OpenVINO numbers layers through the life of a process, so that its own file of one network differs from
    time to time; and of a small quantized network the names are half the bytes.
    """
    path = folder / FILES[OPENVINO]
    openvino.save_model(network, str(path), compress_to_fp16=False)
    public = {name for port in (*network.inputs, *network.outputs) for name in port.names}
    tree = ET.parse(path)  # noqa: S314 (written by the line above)
    root = tree.getroot()
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag == "rt_info"]:
            parent.remove(child)
    for layer in root.iter("layer"):
        if layer.get("type") not in ("Parameter", "Result"):
            layer.set("name", str(layer.get("id")))
        for port in layer.iter("port"):
            known = public & set(port.get("names", "").split(","))
            port.attrib.pop("names", None)
            if known:
                port.set("names", ",".join(sorted(known)))
            for dim in list(port):
                port.remove(dim)
        for port in layer.iterfind("input/port"):
            port.attrib.pop("precision", None)
    for element in root.iter():
        element.text = element.tail = None
    tree.write(path, encoding="utf-8")
