"""OpenVINO as a runtime, and NNCF as a quantizer for it."""

from trimtab_openvino.silence import silence

silence()  # before either library is imported: importing openvino is enough to send its usage
