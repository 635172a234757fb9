"""A server over a fake engine as a process of its own, for tests that kill it: PORT_FILE RECORDS."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.api.server import Server
from runtime.api.service import Service
from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.metrics.energy import EnergyMeter
from tests.fake_service import FakeEngine, served_bundle


def main(port_file: Path, records: Path, drain_seconds: float) -> None:
    def announce(url: str) -> None:
        port_file.with_suffix(".new").write_text(url)
        port_file.with_suffix(".new").rename(port_file)

    with RecordStore(records) as store:
        plane = ControlPlane(records=store, meter=EnergyMeter("none", (), reason="no energy counter"))
        plane.serve(served_bundle("story", FakeEngine(slots=8, step_seconds=0.004)))
        Server(Service(plane), host="127.0.0.1", port=0, drain_seconds=drain_seconds, announce=announce).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
