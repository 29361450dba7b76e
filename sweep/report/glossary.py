"""Explanations of a report's headings, one sentence each."""

from collections.abc import Iterable, Mapping

METRICS: Mapping[str, str] = {
    "top-1": "Share of images (or texts) whose most probable class is correct. Higher is better.",
    "class acc.": "Mean class accuracy: the mean of the top-1 accuracies of all classes. Rare classes count as much as "
    "frequent ones. Higher is better.",
    "worst class acc.": "Top-1 accuracy of the class with the lowest accuracy. Higher is better.",
    "NLL": "Negative log-likelihood in nats: minus the logarithm of the correct class's probability, averaged over "
    "images. Lower is better. Guessing among C classes gives ln C.",
    "ECE": "Expected calibration error: the difference between the confidence and the share of correct predictions, "
    "averaged over 15 bins of confidence. Lower is better.",
    "mAP": "Mean average precision: the area under the precision-recall curve of each label, averaged over labels. "
    "Higher is better.",
    "micro F1": "F1 score over all labels together, at probability 0.5. Higher is better.",
    "macro F1": "F1 score of each label at probability 0.5, averaged over labels. Higher is better.",
    "label acc.": "Share of pairs of an image and a label that are predicted correctly, at probability 0.5. Higher is "
    "better.",
    "BCE": "Binary cross-entropy in nats, averaged over labels. Lower is better.",
    "R²": "Share of the targets' variance that the predictions explain. 1 is perfect, 0 is as good as the mean.",
    "RMSE": "Root mean squared error, in the units of the targets. Lower is better.",
    "MAE": "Mean absolute error, in the units of the targets. Lower is better.",
    "mIoU": "Mean over classes of the intersection over union of true and predicted pixels, summed over images. "
    "Higher is better.",
    "worst IoU": "Intersection over union of the worst class. Higher is better.",
    "pixel acc.": "Share of the labelled pixels that are predicted correctly. Higher is better.",
    "AP": "Average precision of COCO: the area under the precision-recall curve, averaged over classes and over ten "
    "thresholds of the intersection over union of boxes, 0.50 to 0.95. Higher is better.",
    "AP50": "Average precision where a box is found if the intersection over union is 0.50 or more. Higher is better.",
    "AR": "Average recall: the share of boxes that one of 100 detections in an image finds, averaged over classes and "
    "the same thresholds. Higher is better.",
    "missed": "Share of boxes that no detection overlaps by 0.50, averaged over classes. Lower is better.",
}
COLUMNS: Mapping[str, str] = {
    "place": "Position in the ranking; 1 is the winner.",
    "trial": "Number of the configuration, in the order of proposal. Trial 0 is the study's baseline.",
    "front": "0: on the Pareto front, where no other trial is better in every objective. 1: on the front once those "
    "are removed, and so on.",
    "state": "COMPLETE: trained to the last epoch. PRUNED: stopped early. FAIL: diverged, or raised an error.",
    "vs baseline": "Difference to trial 0 after the same number of epochs, on the same images or texts.",
    "95% interval": "Interval of the difference to the baseline. It covers the choice of images, but not the choice of "
    "the seed. If it contains 0, these images do not show a difference.",
    "train loss": "Mean training loss in the last epoch. Losses of different kinds cannot be compared.",
    "ranks left": "Ranks whose gates are still open, as the mean over the modules of the side-network.",
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
    "rank_penalty": "Strength of the penalty that closes the gates of ranks.",
    "loss": "What training minimises.",
    "weight_decay": "Weight decay of the optimizer; biases and norms have none.",
    "label_smoothing": "Probability that cross-entropy moves from the correct class to all classes.",
    "focal_gamma": "Exponent of the focal loss. A larger exponent gives more weight to hard images.",
    "logit_adjustment": "Weight of the logarithm of the class shares in the logit-adjusted loss.",
    "dropout": "Share of the head's inputs that is left out at random in training.",
    "warmup_epochs": "Epochs in which the learning rate rises to its peak.",
    "clip_norm": "Largest norm of a step's gradient.",
    "optimizer": "The optimizer: AdamW or SGD.",
    "schedule": "How the learning rate falls after the warm-up.",
    "gamma_negative": "Exponent of the asymmetric loss for labels that an image does not have.",
    "delta": "Error above which the Huber loss grows linearly.",
}
_ALL = {**PARAMETERS, **COLUMNS, **METRICS}


def explanation(heading: str) -> str | None:
    """The explanation of a heading, which may end in a comma and a split or number; None for an unknown heading."""
    return _ALL.get(heading) or _ALL.get(heading.split(", ", maxsplit=1)[0])


def entries(headings: Iterable[str]) -> dict[str, str]:
    """The headings that have an explanation, each once, in their order."""
    return {name: text for name in dict.fromkeys(headings) if (text := explanation(name)) is not None}
