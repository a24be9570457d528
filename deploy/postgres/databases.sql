-- Run once, on an empty volume: a database for each server, beside the one that journals are kept in.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
