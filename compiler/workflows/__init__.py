"""Work on whole models that builds and runs graphs: calibration, and how much a plan's types lose."""
