"""The experiment's command line, on a task that is quick to compile."""

import sys

from made_up import small_task

from experiments.cifar10.config import Config
from experiments.comparison import command


def load_task(config):
    """The small task, each process reading its share of the training examples."""
    from experiments.comparison import processes

    task = small_task()
    whole = task.dataset
    mine = list(processes.share(len(whole.train_labels)))
    part = (whole.train_inputs[mine], whole.train_labels[mine])
    inputs, labels = processes.gather(len(whole.train_labels), part)
    return task._replace(
        dataset=whole._replace(train_inputs=inputs, train_labels=labels)
    )


if __name__ == "__main__":
    sys.exit(command.run_flags(Config, load_task))
