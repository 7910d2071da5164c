"""Reading speed of TFRecord shards, one core: this project, the `tfrecord` package, tf.data, the physical limit.

    python benchmarks/read_tfrecord.py                   # 200 MB frame level, 60 MB video level, synthetic
    python benchmarks/read_tfrecord.py --full            # 1 GB and 300 MB
    python benchmarks/read_tfrecord.py --data DIR --level video --features mean_rgb=1024,mean_audio=128
    python benchmarks/read_tfrecord.py --tf-python OTHER/bin/python   # if tensorflow is in another environment

The readers alternate within a round, each reads all videos, and ratios are computed per round, so that other load on
the machine affects all of them; CPU time excludes it. All use one core and one thread; the shards are in the page
cache. This project verifies both CRCs and reads into a reused buffer, in training order (shuffled within eight shards)
and in file order; so does tf.data. The `tfrecord` package reads in file order and verifies nothing. All return batches
of --batch-size videos with ids, labels, and one feature matrix. The limit is one CRC pass over the records in memory
and one copy into a reused buffer.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from results import add_option, command, memory, report, spread

LEVELS = {"frame": {"rgb": 1024, "audio": 128}, "video": {"mean_rgb": 1024, "mean_audio": 128}}
MEGABYTES = {"frame": (200, 1000), "video": (60, 300)}
BATCH_SIZES = {"frame": 128, "video": 256}  # of conf/dataset/yt8m_frame.yaml and yt8m_video.yaml
SHUFFLED_SHARDS = 8
SHUFFLED = {"frame": 400, "video": 2000}  # records in tf.data's buffer, 100 MB and 10 MB
TURN_BYTES = 200 * 10**6  # read per turn at least; small sets are read several times
NUM_CLASSES = 3862


def write_shards(folder, level, megabytes, shard_megabytes=25, seed=0):
    """Write shards of random videos, 120 to 300 frames at frame level, and return their paths."""
    from tfrecord.example_pb2 import Example, SequenceExample

    from yt8m.datamodules.tfrecord import framed

    rng = np.random.default_rng(seed)
    paths = []
    for number in range(-(-megabytes // shard_megabytes)):
        paths.append(Path(folder, f"{level}{number:04d}.tfrecord"))
        with open(paths[-1], "wb") as file:
            while file.tell() < shard_megabytes * 10**6:
                message = SequenceExample() if level == "frame" else Example()
                context = (message.context if level == "frame" else message.features).feature
                context["id"].bytes_list.value.append(b"%04d" % rng.integers(10**4))
                context["labels"].int64_list.value.extend(rng.integers(0, NUM_CLASSES, 3).tolist())
                frames = rng.integers(120, 301)
                for name, size in LEVELS[level].items():
                    if level == "video":
                        context[name].float_list.value.extend(rng.standard_normal(size, np.float32).tolist())
                    else:
                        feature_list = message.feature_lists.feature_list[name]
                        for row in rng.integers(0, 256, (frames, size), np.uint8):
                            feature_list.feature.add().bytes_list.value.append(row.tobytes())
                file.write(framed(message.SerializeToString()))
    return paths


def yt8m_reader(paths, level, features, id_key, batch_size, shuffle=True):
    import torch

    from yt8m.datamodules.dataset import ShardDataset
    from yt8m.datamodules.sampler import BatchSampler

    torch.set_num_threads(1)
    dataset = ShardDataset(paths, features, 1 << 20, level=level, id_key=id_key)
    batches = list(BatchSampler(dataset.shard_sizes, batch_size, shuffle=shuffle))
    rows = max(map(dataset.max_rows, batches))
    # allocated by NumPy, like the limit's
    dtype = np.float32 if level == "video" else np.uint8
    buffer = torch.from_numpy(np.zeros((rows, sum(features.values())), dtype))

    def read():
        return sum(len(dataset.read_into(numbers, buffer)) for numbers in batches)

    return read


def tfrecord_reader(paths, level, features, id_key, batch_size):
    from tfrecord.torch.dataset import TFRecordDataset

    keys = {id_key: "byte", "labels": "int"}
    lists = None
    if level == "video":
        keys |= dict.fromkeys(features, "float")
    else:
        lists = dict.fromkeys(features, "byte")

    def videos():
        for path in paths:
            yield from TFRecordDataset(str(path), None, keys, sequence_description=lists)

    def matrix(video):
        if level == "video":
            return np.concatenate([video[name] for name in features])
        frames = [np.frombuffer(b"".join(video[1][name]), np.uint8) for name in features]
        return np.hstack(
            [part.reshape(-1, size) for part, size in zip(frames, features.values(), strict=True)]
        )

    def read():
        source = videos()
        count = 0
        while batch := [matrix(video) for video in itertools.islice(source, batch_size)]:
            np.vstack(batch)
            count += len(batch)
        return count

    return read


def tf_data_reader(paths, level, features, id_key, batch_size, shuffle=False):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    context = {id_key: tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}

    def parse_videos(records):
        return tf.io.parse_example(
            records,
            context | {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in features.items()},
        )

    def parse_frames(records):
        lists = {name: tf.io.RaggedFeature(tf.string) for name in features}
        values, lists, _ = tf.io.parse_sequence_example(records, context, lists)
        frames = [
            tf.io.decode_raw(lists[name].flat_values, tf.uint8, fixed_length=size)
            for name, size in features.items()
        ]
        num_frames = lists[next(iter(features))].row_lengths()
        return values | {"num_frames": num_frames, "frames": tf.concat(frames, 1)}

    if shuffle:  # similar to this project's training order: records of eight shards, mixed in a buffer
        shards = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
        dataset = shards.interleave(tf.data.TFRecordDataset, cycle_length=SHUFFLED_SHARDS)
        dataset = dataset.shuffle(SHUFFLED[level])
    else:
        dataset = tf.data.TFRecordDataset([str(path) for path in paths])
    dataset = dataset.batch(batch_size).map(parse_videos if level == "video" else parse_frames)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    dataset = dataset.with_options(options)

    def read():
        return sum(int(batch[id_key].shape[0]) for batch in dataset)

    return read


def limit_reader(paths, level, features, id_key, batch_size):
    import google_crc32c

    from yt8m.datamodules.tfrecord import index

    shards = [(np.fromfile(path, np.uint8), index(path).tolist()) for path in paths]
    buffer = np.zeros(batch_size * max(size for _, places in shards for _, size in places), np.uint8)

    def read():
        videos = position = 0
        for data, places in shards:
            for offset, size in places:
                record = data[offset : offset + size]
                google_crc32c.value(record)
                position = 0 if position + size > len(buffer) else position
                buffer[position : position + size] = record
                position += size
                videos += 1
        return videos

    return read


READERS = {
    "yt8m": yt8m_reader,
    "yt8m, in file order": partial(yt8m_reader, shuffle=False),
    "tfrecord package": tfrecord_reader,
    "tf.data": tf_data_reader,
    "tf.data, shuffled": partial(tf_data_reader, shuffle=True),
    "limit: CRC + copy": limit_reader,
}
TF_DATA = "tf.data", "tf.data, shuffled"


def serve(name, core, passes, arguments):
    """Create a reader; for each input line, read everything and print videos, seconds, CPU seconds, and memory."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    read = READERS[name](*arguments)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        videos = sum(read() for _ in range(passes))
        print(
            json.dumps([videos, time.perf_counter() - start, time.process_time() - cpu, memory()]), flush=True
        )


def measure(pythons, passes, arguments, rounds):
    """(seconds, CPU seconds) of each round by reader, memory by reader, and the number of videos in a round.

    ``pythons`` maps reader to interpreter. Each reader has its own process, because TensorFlow and the `tfrecord`
    package register the same protobuf messages. Only one reads at a time.
    """
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    children = {
        name: subprocess.Popen(
            [python, __file__, "--serve", json.dumps([name, core, passes, arguments])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, python in pythons.items()
    }
    taken = {name: [] for name in pythons}
    memories, videos = {}, set()
    for round_number in range(rounds + 1):
        for name, child in children.items():
            print(file=child.stdin, flush=True)
            line = child.stdout.readline() or sys.exit(f"the reader {name} ended early")
            count, *seconds, memories[name] = json.loads(line)
            videos.add(count)
            if round_number:  # the first one warms the caches
                taken[name].append(seconds)
    for child in children.values():
        child.communicate()
    if len(videos) != 1:
        sys.exit(f"readers disagree on the number of videos: {sorted(videos)}")
    return taken, memories, videos.pop()


COLUMNS = (
    *("reader", "videos/s", "GB/s", "µs of CPU a video"),
    *("yt8m is faster by", "in CPU time", "yt8m in file order by", "in CPU time"),
    *("peak memory, MB", "of which its own"),
)


def rows_of(taken, memories, videos, size):
    """Cells of the table; ratios compare this project with each other reader, per round."""
    rows = []
    for name, rounds in taken.items():
        wall, cpu = zip(*rounds, strict=True)
        faster = [
            spread(
                [theirs[clock] / ours[clock] for theirs, ours in zip(rounds, taken[our_name], strict=True)],
                ".2f",
            )
            for our_name in ("yt8m", "yt8m, in file order")
            for clock in range(2)
        ]
        if name.startswith("yt8m"):
            faster = [""] * len(faster)
        rows.append(
            [
                name,
                spread([videos / seconds for seconds in wall], ",.0f"),
                spread([size / seconds / 1e9 for seconds in wall], ".2f"),
                spread([seconds / videos * 1e6 for seconds in cpu], ".1f"),
                *faster,
                *(f"{memories[name].get(kind, np.nan):,.0f}" for kind in ("VmHWM", "RssAnon")),
            ]
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="1 GB at frame level and 300 MB at video level")
    parser.add_argument("--level", choices=LEVELS, help="only this level")
    parser.add_argument("--batch-size", type=int, help="by default that of the dataset's config, 128 or 256")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, help="folder of real shards to read instead; needs --level")
    parser.add_argument("--name", help="of the real shards, for the title")
    parser.add_argument("--features", help="of the real shards, as name=size,name=size")
    parser.add_argument("--id-key", default="id", help="of the real shards")
    parser.add_argument(
        "--tf-python", type=Path, help="Python with tensorflow, to read tf.data with (default: this one)"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    add_option(parser)
    options = parser.parse_args()
    if options.serve:
        serve(*json.loads(options.serve))
        return
    if options.data and not options.level:
        parser.error("--data needs --level")
    pythons = dict.fromkeys(READERS, sys.executable)
    if options.tf_python:
        pythons |= dict.fromkeys(TF_DATA, str(options.tf_python))
    elif not find_spec("tensorflow"):
        pythons = {name: python for name, python in pythons.items() if name not in TF_DATA}
        print("tf.data is left out: tensorflow is not installed, see the extra 'bench' and --tf-python")
    with tempfile.TemporaryDirectory() as folder:
        for level in [options.level] if options.level else LEVELS:
            features = LEVELS[level]
            if options.features:
                features = {
                    name: int(size)
                    for name, size in (item.split("=") for item in options.features.split(","))
                }
            if options.data:
                paths = sorted(options.data.rglob("*.tfrecord"))
            else:
                paths = write_shards(folder, level, MEGABYTES[level][options.full])
            size = sum(path.stat().st_size for path in paths)
            passes = -(-TURN_BYTES // size)
            batch_size = options.batch_size or BATCH_SIZES[level]
            arguments = [list(map(str, paths)), level, features, options.id_key, batch_size]
            taken, memories, videos = measure(pythons, passes, arguments, options.rounds)
            data = (options.name or "real") if options.data else "made up"
            title = f"Reading, {level} level, {data}, {size / 1e6:,.0f} MB, batches of {batch_size}"
            report(
                options.results,
                title,
                command(parser, options),
                COLUMNS,
                rows_of(taken, memories, videos, size * passes),
                f"One core, {options.rounds} rounds of {videos:,} videos, min – median – max.",
            )


if __name__ == "__main__":
    main()
