"""A training step of every network: its parts, its share of the machine's limit, its memory.

    python benchmarks/train_step.py --json step.json           # full width, 300 frames, on a GPU
    python benchmarks/train_step.py --narrow --json step.json  # 1/32 of the width, 60 frames, on a CPU

Columns: a naive port (float32, inputs padded and converted on the host, Adam and clipping one variable at a time, the
loss left to autograd), this project's defaults, and these compiled; `--columns default streams` compares the defaults
with trainer.cuda_streams=true. Each runs in a process of its own; a network's columns take turns, round by round.
Videos/s are of whole steps; the parts are of further steps that wait for the device after each part. The JSON file is
written anew after each network.

The limit is matrix products or memory traffic, whichever takes longer: operations counted by torch's FLOP counter, and
the bytes that weights, gradients, and Adam's state move, over what this machine reaches in a large product and a copy.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml
from results import add_option, command, memory, report, spread
from rich.progress import Progress
from torch.utils.flop_counter import FlopCounterMode

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.sample import write_sample
from yt8m.layers.streams import set_cuda_streams
from yt8m.module import VideoClassifier
from yt8m.train.compiled import compile_in_place
from yt8m.train.session import keep_freed_memory

FEATURES = {"rgb": 1024, "audio": 128}
CLASSES = 3862
MODELS = Path(__file__).parents[1] / "conf" / "model"
NETWORKS = sorted(path.stem for path in MODELS.glob("*.yaml"))
PARTS = ("input", "copy", "forward", "backward", "clip", "optimizer")
# Bytes that a parameter's weight, gradient, and moments move in a step: two reads of the weight and one write of the
# gradient by the passes, 12 in clipping, 28 in fused Adam; bf16 adds a cast copy, and halves what the passes move.
TRAFFIC = {"32-true": 52, "bf16-mixed": 54}
# Their server has imported this file, and has no threads and no CUDA, which a fork would not survive.
PROCESSES = multiprocessing.get_context("forkserver")
COLUMNS = NAIVE, DEFAULT, COMPILED, STREAMS = "naive", "default", "compiled", "streams"


def make(name, width, frames):
    model = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    return VideoClassifier(
        model={**model, "width": width},
        feature_sizes=FEATURES,
        num_classes=CLASSES,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam"},
        gradient_clip={"norm": 1.0, "per": "variable"},
        max_frames=frames,
    )


def naive_loss(logits, labels):
    p = logits.sigmoid()
    labels = labels.float()
    return -(labels * (p + 1e-5).log() + (1 - labels) * (1 - p + 1e-5).log()).sum(1).mean()


class Step:
    """A training step in parts; `sync` waits for the device."""

    def __init__(self, options, name, column, device):
        self.naive, self.device = column == NAIVE, torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.precision = "bf16-mixed" if on_gpu and not self.naive else "32-true"
        if not on_gpu and not self.naive:
            torch.set_flush_denormal(True)
            keep_freed_memory()
        torch.manual_seed(0)
        with self.device:
            self.module = make(name, options["width"], options["frames"])
        self.module.to(self.device).train()
        if self.naive:
            weights = self.module.parameters()
            self.optimizer = torch.optim.Adam(weights, foreach=False, fused=False)
        else:
            self.optimizer = self.module.configure_optimizers()
        set_cuda_streams(column == STREAMS)
        if column == COMPILED:
            compile_in_place(self.module.model, one_shape=not self.module.needs_frames)
        data = YT8MDataModule(
            root=options["root"],
            train="train/*.tfrecord",
            validate="validate/*.tfrecord",
            features=FEATURES,
            num_classes=CLASSES,
            batch_size=options["batch_size"],
            max_frames=options["frames"],
            num_workers=2,
        )
        data.setup("fit")
        self.data, self.loader = data, data.train_dataloader()
        self.batches = self.forever()

    def forever(self):
        while True:
            yield from self.loader

    def parts(self, mark):
        """One step; calls `mark` after each part."""
        module, naive = self.module, self.naive
        batch = next(self.batches)
        inputs = list(module.inputs(batch)) if naive else None
        labels = module.labels(batch) if naive else None
        mark("input")
        if naive:
            inputs = [None if one is None else one.to(self.device) for one in inputs]
            labels = labels.to(self.device)
        else:
            batch = batch.to(self.device, non_blocking=True)
        mark("copy")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            loss = naive_loss(module(*inputs), labels) if naive else module.objective(module, batch)
        mark("forward")
        self.optimizer.zero_grad()
        loss.backward()
        mark("backward")
        if naive:
            for weight in module.parameters():
                torch.nn.utils.clip_grad_norm_([weight], 1.0, foreach=False)
        else:
            module.configure_gradient_clipping(self.optimizer)
        mark("clip")
        self.optimizer.step()
        mark("optimizer")

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(connection, options, name, column):
    """In a process of its own: sends the seconds of its first steps, and of a round whenever it receives the word."""
    torch.set_num_threads(options["threads"])
    began = time.perf_counter()
    step = Step(options, name, column, options["device"])
    for _ in range(2):  # kernels are loaded and compiled
        step.parts(lambda part: None)
    step.sync()
    connection.send(time.perf_counter() - began)
    while connection.recv():
        connection.send(measure_round(step, options["steps"]))
    on_gpu = step.device.type == "cuda"
    connection.send(torch.cuda.max_memory_allocated() / 1e6 if on_gpu else memory()["VmHWM"])
    step.data.teardown()


def measure_round(step, steps):
    """Seconds of a step, and of the parts of a further one."""
    began = time.perf_counter()
    for _ in range(steps):
        step.parts(lambda part: None)
    step.sync()
    seconds, parts = (time.perf_counter() - began) / steps, {}
    mark = time.perf_counter()

    def note(part):
        nonlocal mark
        step.sync()
        now = time.perf_counter()
        parts[part] = now - mark
        mark = now

    step.parts(note)
    return seconds, parts


class Column:
    """A process that runs `measure`; `failed` once it has ended without an answer."""

    def __init__(self, *arguments):
        self.connection, other = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=measure, args=(other, *arguments))
        self.process.start()
        other.close()
        self.failed, self.first, self.rounds = False, None, []

    def answer(self, word=None):
        """What the process sends next, after it got the word, if any; None if it has failed."""
        try:
            if not self.failed:
                if word is not None:
                    self.connection.send(word)
                return self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.failed = True
        return None

    def result(self):
        peak = self.answer(False)
        self.process.join()
        if self.failed:
            return None
        parts = {part: statistics.median(one[part] for _, one in self.rounds) for part in PARTS}
        steps = [seconds for seconds, _ in self.rounds]
        return {"steps": steps, "parts": parts, "peak_mb": peak, "first": self.first}


def measure_columns(names, columns, options):
    """Results by network and column: the networks get ready together, then each one's columns take turns."""
    started = {name: {column: Column(options, name, column) for column in columns} for name in names}
    everyone = [column for of_network in started.values() for column in of_network.values()]
    try:
        for column in everyone:
            column.first = column.answer()
        for of_network in started.values():
            for _ in range(options["rounds"]):
                for column in of_network.values():
                    column.rounds.append(column.answer(True))
        return {
            name: {column: one.result() for column, one in of_network.items()}
            for name, of_network in started.items()
        }
    finally:
        for column in everyone:
            column.process.terminate()


def count(name, options):
    """Parameters, and operations of a step's matrix products for one video."""
    with torch.device("meta"):
        module = make(name, options["width"], options["frames"]).train()
        video = torch.zeros(2, sum(FEATURES.values()))
        frames = torch.zeros(2, options["frames"], sum(FEATURES.values()))
        with FlopCounterMode(display=False) as counter:
            module.model(video, frames, torch.full((2,), options["frames"])).sum().backward()
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() / 2


def ceilings(sender, device, threads, size):
    """Operations per second of a large product by precision, and bytes per second of a copy."""
    torch.set_num_threads(threads)
    best = {}
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    dtypes = {"32-true": torch.float32}
    if device == "cuda":  # a CPU may lack products in bf16, and then takes minutes
        dtypes["bf16-mixed"] = torch.bfloat16
    for precision, dtype in dtypes.items():
        a = torch.randn(size, size, device=device, dtype=dtype)
        b, c = torch.randn_like(a), torch.empty_like(a)
        best[precision] = 2 * size**3 / fastest(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), sync)
    source = torch.ones(1 << (30 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)
    best["bytes"] = 2 * source.nbytes / fastest(lambda: target.copy_(source), sync)
    sender.send(best)


def fastest(work, sync):
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        work()
        sync()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def in_process(work, *arguments):
    """What `work` sends; an error in its place where the process fails."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(sender, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def batched(names, size):
    return [names[at : at + size] for at in range(0, len(names), size)]


def ratios(naive, found):
    """How many times faster than the naive port, round by round; empty where that failed."""
    if naive is None:
        return ""
    return spread([a / b for a, b in zip(naive["steps"], found["steps"], strict=True)], ".2f")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS, metavar="NAME")
    parser.add_argument("--columns", nargs="+", default=[NAIVE, DEFAULT, COMPILED], choices=COLUMNS)
    parser.add_argument("--narrow", action="store_true", help="1/32 of the width, 60 frames, 32 videos")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--together", type=int, help="networks that get ready at a time; 4 on a GPU, 1 on a CPU"
    )
    parser.add_argument("--json", type=Path)
    add_option(parser)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    narrow = arguments.narrow
    options = {
        "width": 1 / 32 if narrow else 1,
        "frames": 60 if narrow else 300,
        "batch_size": 32 if narrow else arguments.batch_size,
        "rounds": arguments.rounds,
        "steps": 2 if narrow else arguments.steps,
        "threads": arguments.threads,
        "device": device,
    }
    results = {}
    together = arguments.together or (4 if device == "cuda" else 1)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        options["root"] = f"{folder}/sample"
        write_sample(
            Path(options["root"]),
            train_videos=4 * options["batch_size"],
            validate_videos=4,
            test_videos=4,
            min_frames=options["frames"],
            max_frames=options["frames"],
            num_classes=CLASSES,
        )
        ceiling = in_process(ceilings, device, arguments.threads, 8192 if device == "cuda" else 2048)
        bar = progress.add_task("", total=len(arguments.networks))
        for names in batched(arguments.networks, together):
            progress.update(bar, description=" ".join(names))
            found = measure_columns(names, arguments.columns, options)
            for name in names:
                params, flops = count(name, options)
                results[name] = {"params": params, "flops_per_video": flops, "columns": found[name]}
            if arguments.json:
                content = {"options": options | {"root": None}, "ceilings": ceiling, "networks": results}
                arguments.json.write_text(json.dumps(content, indent=1))
            progress.advance(bar, len(names))
    rows = []
    for name, result in results.items():
        naive = result["columns"].get(NAIVE)
        for column, found in result["columns"].items():
            if found is None:
                rows.append([name, "", "", column, "failed", *[""] * 10])
                continue
            seconds = statistics.median(found["steps"])
            precision = "bf16-mixed" if device == "cuda" and column != NAIVE else "32-true"
            products = result["flops_per_video"] * options["batch_size"] / ceiling[precision]
            traffic = result["params"] * TRAFFIC[precision] / ceiling["bytes"]
            limit = max(products, traffic)
            rows.append(
                [
                    name,
                    f"{result['params'] / 1e6:,.1f}",
                    f"{result['flops_per_video'] / 1e9:,.2f}",
                    column,
                    f"{options['batch_size'] / seconds:,.0f}",
                    ratios(naive, found),
                    *(f"{1e3 * found['parts'][part]:.1f}" for part in PARTS),
                    f"{limit / seconds:.0%} ({'products' if products > traffic else 'memory'})",
                    f"{found['peak_mb']:,.0f}",
                    f"{found['first']:.1f}",
                ]
            )
    limits = ", ".join(
        f"{speed / 1e9:,.1f} {'GB/s' if of == 'bytes' else f'GFLOP/s in {of}'}"
        for of, speed in ceiling.items()
    )
    width = "1/32 of the width" if narrow else "full width"
    report(
        arguments.results,
        f"A training step, {width}, {options['frames']} frames, {options['batch_size']} videos, {device}",
        command(parser, arguments),
        (
            *("network", "M parameters", "GFLOP a video", "column", "videos/s", "× naive"),
            *(f"{part}, ms" for part in PARTS),
            *("share of the limit (bound by)", "peak memory, MB", "ready after, s"),
        ),
        rows,
        f"Threads: {arguments.threads}; medians of {arguments.rounds} rounds; of the ratios to the naive port, min – "
        "median – max. That port converts and pads a batch while it waits for its input, the others in their forward "
        f"pass. The machine's ceiling: {limits}.",
    )


if __name__ == "__main__":
    main()
