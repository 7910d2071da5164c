"""NetRVLAD: NetVLAD without centers, a weighted sum of the frames per cluster."""

from yt8m.models.netvlad import NetVLAD


class NetRVLAD(NetVLAD):
    """NetVLAD without centers: a weighted sum of the frames per cluster, gated.

    ```
    frames [B, T, 1152] → BN; per feature: a = softmax(BN(x W)) over its clusters (rgb 256, audio 128)
        → Σ over valid frames of a · x → length 1 per cluster → length 1
    concat [B, 278528] → Dense 1024 → context gate → mixture of 2 experts per class → probability gate, C
    ```

    Source: Miech et al. 2017, arXiv 1706.06905, section 3.2. The frames there are 300 draws with replacement; here all
    valid ones, unless `sample_frames` says otherwise.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`); 8 clusters remain.
        num_clusters: clusters, by feature.
        hidden_size: width of the dense layer.
        gate: whether a context gate follows the dense layer.
        num_experts: experts per class.
        probability_gate: whether the classes' probabilities gate each other; C² parameters at any width.
        sample_frames: random frames per video in training, drawn with replacement; null keeps all.
    """

    centers = False
