"""A video's genre ("Games", "Arts & Entertainment"): the verticals of its labels, 24 in YouTube-8M's vocabulary."""

from collections.abc import Sequence

import torch
from torch import Tensor

from yt8m.metrics import TOP_K, top_classes

UNKNOWN = "(Unknown)"  # the official vocabulary's mark on classes that belong to no vertical


def genre_names(verticals: Sequence[Sequence[str]]) -> list[str]:
    """The genres among the verticals of all labels, in alphabetical order; `(Unknown)` is none."""
    return sorted({name for names in verticals for name in names} - {UNKNOWN})


class Genres(torch.nn.Module):
    """Which of G genres each of C labels has, and from there what a video has. Without parameters.

    A video has the genres of all its labels. One whose labels are all of unknown vertical has none: it stays
    in training and evaluation as a negative of every genre.

    Args:
        verticals: of each label in index order, 0 to 3 names.
    """

    def __init__(self, verticals: Sequence[Sequence[str]]):
        super().__init__()
        self.names = genre_names(verticals)
        rows = [[genre in names for genre in self.names] for names in verticals]
        members = torch.tensor(rows, dtype=torch.bool).view(len(verticals), len(self.names))
        # Made from the vocabulary, which the checkpoint carries: not part of the weights.
        self.register_buffer("members", members, persistent=False)  # [C, G]

    def __len__(self) -> int:
        return len(self.names)

    def of_labels(self, label_index: Tensor, batch_size: int) -> Tensor:
        """Genres of the videos whose (row, label) pairs are int64 `[M, 2]`: bool `[B, G]`."""
        counts = torch.zeros(batch_size, len(self), dtype=torch.int32, device=label_index.device)
        return counts.index_add_(0, label_index[:, 0], self.members[label_index[:, 1]].int()) > 0

    def of_scores(self, scores: Tensor) -> Tensor:
        """Probabilities of the genres, float32 `[B, G]`, from those of the labels, float32 `[B, C]`.

        Noisy-or over the video's 20 best labels: a genre is missing where each of its labels among them is,
        1 - Π(1 - p). Of the rules tried on real videos this one ranked genres best (see the README): with all
        labels, hundreds of small probabilities add up; the largest alone forgets that labels agree. And what
        a prediction file holds suffices to compute it.
        """
        if not len(self):
            return scores.new_empty(len(scores), 0)
        top = top_classes(scores, min(TOP_K, scores.shape[1]))
        missing = 1 - scores.gather(1, top)[:, :, None] * self.members[top]  # [B, 20, G]
        return 1 - missing.prod(dim=1)
