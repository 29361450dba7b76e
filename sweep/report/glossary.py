"""What the headings of a report mean, in a sentence each."""

from collections.abc import Iterable, Mapping

METRICS: Mapping[str, str] = {
    "top-1": "Share of images, or texts, whose most probable class is the right one. More is better.",
    "class acc.": "Mean class accuracy: top-1 of each class by itself, then the mean over classes, so that rare "
    "classes count as much as frequent ones. More is better.",
    "worst class acc.": "Top-1 of the class on which it is lowest. More is better.",
    "NLL": "Negative log-likelihood in nats: minus the logarithm of the probability given to the right class, "
    "averaged. Less is better; guessing among C classes costs ln C.",
    "ECE": "Expected calibration error: how far the stated confidence is from the share of right answers, averaged "
    "over 15 bins of confidence. Less is better.",
    "mAP": "Mean average precision: the area under the precision-recall curve of each label, averaged over labels. "
    "More is better.",
    "micro F1": "F1 over all decisions of all labels together, at probability 0.5. More is better.",
    "macro F1": "F1 of each label at probability 0.5, averaged over labels. More is better.",
    "label acc.": "Share of (image, label) pairs answered correctly at probability 0.5. More is better.",
    "BCE": "Binary cross-entropy in nats, averaged over labels. Less is better.",
    "R²": "Share of the targets' variance that the predictions explain. 1 is perfect, 0 is as good as the mean.",
    "RMSE": "Root mean squared error, in the units of the targets. Less is better.",
    "MAE": "Mean absolute error, in the units of the targets. Less is better.",
}
COLUMNS: Mapping[str, str] = {
    "place": "Position in the ranking; 1 is the winner.",
    "trial": "Number of the configuration, in the order of proposal. Trial 0 is the study's baseline.",
    "front": "0: on the Pareto front, where no other trial is better in every objective. 1: on the front once those "
    "are removed, and so on.",
    "state": "COMPLETE: trained to the last epoch. PRUNED: stopped before. FAIL: diverged or broke.",
    "vs baseline": "Difference to trial 0 after as many epochs, on the same val images or texts.",
    "95% interval": "The difference to the baseline lies in this interval for 95% of all choices of images. If it "
    "contains 0, these images cannot tell the two apart. Another seed is not in it.",
    "train loss": "Mean training loss in the last epoch. Losses of different kinds do not compare.",
    "size": "Trained parameters of the side-network at its own rank; the frozen backbone is not counted.",
    "seconds": "The trial's share of the wall time of the stacks that it trained in.",
    "why": "Why the trial was stopped or failed.",
    "hypervolume": "Volume of the space of objectives between the worst values seen and the Pareto front, in the "
    "product of their units. It grows when a trial extends the front.",
}
PARAMETERS: Mapping[str, str] = {
    "lr": "Learning rate of the side modules, at its peak.",
    "head_lr_ratio": "The head's learning rate as a multiple of lr.",
    "head_lr": "Learning rate of the head.",
    "rank": "Rank r of the low-rank attention modules.",
    "loss": "What training minimises.",
    "weight_decay": "Weight decay of the optimizer; biases and norms have none.",
    "label_smoothing": "Mass taken from the right class and spread over all, of cross-entropy.",
    "focal_gamma": "Exponent of the focal loss; more of it attends to hard images.",
    "logit_adjustment": "Weight of the logarithm of the class shares, of the logit-adjusted loss.",
    "dropout": "Share of the head's inputs that is left out at random in training.",
    "warmup_epochs": "Epochs in which the learning rate rises to its peak.",
    "clip_norm": "Largest length of a step's gradient.",
    "optimizer": "How gradients become steps.",
    "schedule": "How the learning rate falls after the warm-up.",
    "gamma_negative": "Exponent of the asymmetric loss for labels that an image does not have.",
    "delta": "Error above which the Huber loss grows linearly.",
}
_ALL = {**PARAMETERS, **COLUMNS, **METRICS}


def explanation(heading: str) -> str | None:
    """The sentence for a heading, which may name a split or a number behind a comma; None for a word not listed."""
    return _ALL.get(heading) or _ALL.get(heading.split(", ", maxsplit=1)[0])


def entries(headings: Iterable[str]) -> dict[str, str]:
    """Those of the headings that are explained, each once, in their order."""
    return {name: text for name in dict.fromkeys(headings) if (text := explanation(name)) is not None}
