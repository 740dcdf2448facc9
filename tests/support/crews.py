"""Workers without a cluster: they play in this process, after a journey as bytes."""

import pickle

import torch

from meta_rl.rollouts.ray.worker import RolloutWorker


class CrewHere:
    """Workers that play one after the other and answer in reverse order."""

    lost_workers = tasks_played_again = 0

    def __init__(self, build, size):
        threads = torch.get_num_threads()
        self.workers = [RolloutWorker(build, "cpu", threads) for _ in range(size)]
        self.descriptions = [worker.prepare() for worker in self.workers]
        self.jobs = []

    def present(self):
        return self.descriptions

    def play(self, state, jobs):
        self.jobs += jobs
        for worker, job in reversed(list(zip(self.workers, jobs, strict=False))):
            sent = pickle.loads(pickle.dumps((state, job)))
            yield job, pickle.loads(pickle.dumps(worker.play(*sent)))

    def close(self):
        for worker in self.workers:
            worker.close()
