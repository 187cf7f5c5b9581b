"""The application of a kernel that is forked: ipykernel's, which loses no output and does not stall at its end."""

from __future__ import annotations

from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

ANSWER_S = 2.0


class KernelApp(IPKernelApp):
    """ipykernel's application, which loses no output and does not stall at its end."""

    def init_iopub(self, context: Any) -> None:
        """Make the socket for output without a limit: zmq drops what is beyond it when a client reads slowly."""
        app: Any = super()
        context.sockopts[zmq.SNDHWM] = 0
        app.init_iopub(context)
        del context.sockopts[zmq.SNDHWM]

    def run_to_its_end(self) -> None:
        """Run the kernel's loop until it has been asked to shut down, and has answered.

        ipykernel's own end stops the thread that sends output, and then waits for the thread that still answers. When
        the latter wants to flush its output just then, both wait for seconds.
        """
        app: Any = self
        app.start()
        if app.kernel._shutdown_message is not None:  # a kernel that left by `exit` has nothing to answer
            app.control_thread.join(ANSWER_S)
