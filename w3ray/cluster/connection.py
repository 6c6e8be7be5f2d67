"""When does a driver join its Ray cluster, and what does it import meanwhile?"""

import threading
from importlib import import_module

from w3ray.cluster.connect import connect, disconnect, job_address, keep_sigterm, on_each_node, quiet, start_helpers
from w3ray.errors import InputError
from w3ray.plugins import Shipment


class Connection:
    """Starts Ray while the driver makes or reads the data, which saves seconds.

    The thread that started a local cluster must outlive it: the kernel ends Ray's processes together with the thread
    that made them (PR_SET_PDEATHSIG), not with the process.

    Args:
        address: address of a running cluster; None: the cluster of the job that this process is, or a local cluster
            that is started here.
        needs: a module to import while the cluster starts, because this is mostly waiting for processes.
        needs_later: a module to import when training takes steps (`training`); None: none.
    """

    def __init__(self, address: str | None, *, needs: str = "ray", needs_later: str | None = None) -> None:
        self.address = address or job_address()
        self._needs_later = needs_later
        self._imports = threading.Thread(target=import_module, args=(needs,), name="imports", daemon=True)
        self._thread: threading.Thread | None = None
        self._ready, self._training, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._nodes: list[dict[str, float]] = []
        self._is_own = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to connect."""
        if self._thread is None:
            quiet()
            self._imports.start()
            self._thread = threading.Thread(target=self._hold, name="ray-connection", daemon=True)
            self._thread.start()

    def _hold(self) -> None:
        import ray

        callers_own = ray.is_initialized()
        self._is_own = not callers_own and self.address is None
        try:
            self._nodes = connect(self.address)
            if self.address is None:
                start_helpers()
        except BaseException as error:
            self._error = error
        self._ready.set()
        self._training.wait()
        if not self._closing.is_set() and self._needs_later is not None:
            import_module(self._needs_later)
        self._closing.wait()
        if not callers_own:
            disconnect()

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each node of the cluster. Waits until the cluster is there.

        Raises:
            InputError: nothing answers at the address.
        """
        self.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        keep_sigterm()  # Ray joined in another thread, which cannot set signal handlers
        return self._nodes

    def require(self, plugins: Shipment) -> None:
        """Load plugins in a process on each node of a cluster that was not started here: what lacks is said at once.

        Raises:
            InputError: a node cannot load them, or has others than this process; a line for each.
        """
        if not plugins or self._is_own:
            return
        faults = [fault for fault in on_each_node(plugins.fault) if fault]
        if faults:
            raise InputError(*dict.fromkeys(faults))

    @property
    def is_own(self) -> bool:
        """Whether the cluster was started here, and so ends with this connection. Known when `nodes` has returned."""
        return self._is_own

    def training(self) -> None:
        """Tell that a stage takes steps. What is needed only at its end may take processor time from now on."""
        self._training.set()

    def close(self) -> None:
        """Leave the cluster. This ends all that this driver started there; the caller's own connection stays."""
        self._closing.set()
        self._training.set()
        if self._thread is not None:
            self._thread.join()
            self._imports.join()  # a process must not end in the middle of an import
