"""Kernels of notebooks: ended with their notebook, and on Linux forked from one process that has
imported already what every notebook imports, which spares each of them some seconds.
"""

import copy
import multiprocessing
import os
import signal
import sys
import threading
from importlib import import_module
from importlib.metadata import EntryPoint

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

FORKED = "faeval-forked"
NEEDED = ("ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "faeval_core.report.audit")
CAN_FORK = sys.platform == "linux"


def imported() -> None:
    """Import what notebooks do. This module is imported in the process that kernels are forked
    from, before the first of them.
    """
    # as ipykernel would, and before matplotlib is imported
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in NEEDED:
        import_module(name)


def _kernel(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Be a kernel: the whole life of a forked process, in a session of its own."""
    from ipykernel.kernelapp import launch_new_instance

    imported()  # where the server of forks ran already, for other work
    os.setsid()
    os.chdir(cwd)
    backend = os.environ["MPLBACKEND"]
    os.environ.clear()
    os.environ.update({"MPLBACKEND": backend} | env)
    sys.path[0] = ""  # as of `python -m ipykernel_launcher`, where ipykernel takes it out
    # with whom it ends; ipykernel has read $JPY_PARENT_PID when it was imported
    launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


class Child:
    """A forked process with what a provisioner asks of subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], cwd: str, env: dict[str, str]):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["faeval_core.report.preloaded"])
        self.process = context.Process(target=_kernel, args=(arguments, cwd, env))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Forked(LocalProvisioner):
    """Starts a kernel by forking."""

    async def launch_kernel(self, cmd, **kwargs):
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = Child(arguments, kwargs.get("cwd") or os.getcwd(), dict(kwargs["env"]))
        self.pid = self.process.pid
        return self.connection_info


KernelProvisionerFactory.provisioners[FORKED] = EntryPoint(
    FORKED, f"{__name__}:{Forked.__name__}", KernelProvisionerFactory.GROUP_NAME
)


class Kernel(AsyncKernelManager):
    """A kernel that ends with its notebook, wherever an interrupt has caught the client that should
    have ended it. A notebook runs in one thread, which its kernels are known by.
    """

    begun: list["Kernel"] = []
    stopped = False  # after an interrupt: no kernel starts any more

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.thread = threading.get_ident()
        self.begun.append(self)

    async def start_kernel(self, **kwargs):
        if Kernel.stopped:
            raise RuntimeError("interrupted")
        await super().start_kernel(**kwargs)
        if Kernel.stopped:  # in the meantime
            self.end()

    def end(self):
        process = getattr(self.provisioner, "process", None)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    @classmethod
    def end_own(cls):
        """End what this thread's notebook has left."""
        for kernel in [k for k in cls.begun if k.thread == threading.get_ident()]:
            cls.begun.remove(kernel)
            kernel.end()

    @classmethod
    def end_all(cls):
        """End all kernels, and let none start from here on."""
        Kernel.stopped = True
        for kernel in list(cls.begun):
            kernel.end()


class ForkedKernel(Kernel):
    """A kernel that is forked; for notebooks whose process has one thread."""

    @property
    def kernel_spec(self):
        spec = copy.copy(super().kernel_spec)
        provisioner = {"provisioner_name": FORKED, "config": {}}
        spec.metadata = spec.metadata | {"kernel_provisioner": provisioner}
        return spec
