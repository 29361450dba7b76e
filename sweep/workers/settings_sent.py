"""What lanes of a shape train with, as workers get it: once for each worker and shape."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from sweep.search.trainer import SettingOf
from sweep.side_networks.own_networks import given_network
from sweep.study.shape import Shape
from sweep.tasks.own_losses import given_losses
from sweep.workers.feature_sending import send_features
from sweep.workers.messages import UsersCode
from sweep.workers.packing import packed_with_files
from sweep.workers.pool import Call, WorkerPool


class SettingsSent:
    """The settings that workers have.

    Args:
        setting_of: Gives the setting of a shape, with features where they are stored.
        pool: The workers.
        call: Calls them.
        on_message: Told when features are sent.
    """

    def __init__(self, setting_of: SettingOf, pool: WorkerPool, call: Call, on_message: Callable[[str], None]):
        self.setting_of, self.pool, self.call, self.on_message = setting_of, pool, call, on_message
        self._packed: dict[Shape, tuple[bytes, set[Path]]] = {}
        self._sent: set[tuple[int, Shape]] = set()

    def send(self, needed: Collection[tuple[int, Shape]], shapes: Iterable[Shape], expected_seconds: float) -> bool:
        """Send workers the settings that they need and do not have.

        Args:
            needed: Workers, and shapes that they are to train.
            shapes: All shapes, in the order in which they are sent.
            expected_seconds: Time that a worker should take for one.

        Returns:
            Whether no worker was lost meanwhile.
        """
        before, missing = set(self.pool.ready), set(needed) - self._sent
        for shape in dict.fromkeys(shapes):
            workers = {worker for worker, needs in missing if needs == shape}
            if not workers:
                continue
            setting, files = self._setting(shape)
            send_features(files, workers, self.pool, self.call, self.on_message)
            calls = dict.fromkeys(sorted(workers & set(self.pool.ready)), setting)
            for worker, _ in self.call(calls, expected_seconds):
                self._sent.add((worker, shape))
            if not before <= set(self.pool.ready):  # also while features were computed for the setting
                return False
        return True

    def _setting(self, shape: Shape) -> tuple[bytes, set[Path]]:
        """The call that gives a worker the setting of a shape, and the files of the cache that it then reads."""
        if shape not in self._packed:
            setting = self.setting_of(shape)
            family = setting.spec.family
            networks = {family: given_network(family)} if setting.spec.is_own else {}
            call = ("take_setting", (shape, setting, UsersCode(networks, given_losses())))
            self._packed[shape] = packed_with_files(call)
        return self._packed[shape]
