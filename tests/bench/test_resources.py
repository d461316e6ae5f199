"""Compiling the planned kernels: what is read from the binaries and what is recorded."""

import ast
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from bench.cli import resources as resources_command
from bench.compiler import compile_kernel, resources
from bench.compiler.resources import Grid
from bench.records import store
from kernels.plan import Problem, persistent_plans
from kernels.plan.devices import DEVICES

H100 = DEVICES["h100"]

LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00 */
        /*0010*/                   LDG.E R2, [R4.64] ;                 /* 0x01 */
        /*0020*/              @!P0 LDG.E.STRONG.GPU R3, [R4.64] ;      /* 0x02 */
        /*0030*/                   HGMMA.64x16x16.F32.BF16 R8, gdesc[UR4], R8 ;
        /*0040*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0050*/               @P1 BRA 0x40 ;
        /*0060*/                   STG.E [R4.64], R2 ;
        /*0070*/               @P2 BRA `(.L_x_1) 0x10 ;
        /*0080*/                   EXIT ;
"""


def variant(cell, pass_, H, number="bf16", B=16, mode="auto"):
    return resources.plan_variant(H100, cell, pass_, H, B, number, mode)


JOB = resources.Job(variant("lstm", "fwd", 1024), (16,), H100)


def test_a_listing_is_read_and_its_widest_loop_found():
    code = compile_kernel.sass(LISTING)
    assert [address for address, _ in code] == list(range(0, 0x90, 0x10))
    span = compile_kernel.time_loop(code)
    loop = [compile_kernel.opcode(text) for address, text in code if address in span]
    assert loop == ["LDG", "LDG", "HGMMA", "BAR", "BRA", "STG", "BRA"]
    assert len(compile_kernel.time_loop([(0, "MOV R1, R2"), (16, "EXIT")])) == 0


def test_the_full_grid_holds_every_case_once():
    found = resources.plan_jobs(
        H100, Grid((64, 1024), (1, 16, 64), ("lstm", "gru"), ("bf16", "fp32:ieee"))
    )
    cases = [
        (job.variant.cell, job.variant.pass_, job.variant.H, job.variant.dtype, B)
        for job in found
        for B in job.batches
    ]
    assert len(cases) == len(set(cases)) == 2 * 2 * 2 * 3 * 2
    keys = {resources.result_key(job, "code", "3.7.1") for job in found}
    assert len(keys) == len(found)


def test_a_key_changes_with_whatever_changes_the_kernel():
    key = resources.result_key(JOB, "code", "3.7.1")
    assert resources.result_key(replace(JOB, batches=(1, 16)), "code", "3.7.1") == key
    plan = JOB.variant.plan
    changes = (
        {"cell": "gru"}, {"features": ("bias", "lengths", "save")},
        {"plan": replace(plan, ahead=1)}, {"plan": replace(plan, tiles=2)},
    )  # fmt: skip
    jobs = [replace(JOB, variant=replace(JOB.variant, **change)) for change in changes]
    jobs.append(replace(JOB, device=DEVICES["a100"]))
    keys = {resources.result_key(job, "code", "3.7.1") for job in jobs}
    keys |= {resources.result_key(JOB, *made) for made in (("other", "3.7.1"), ("code", "3.6.0"))}
    assert len(keys - {key}) == len(jobs) + 2


FOUND = {
    "registers": 96, "stack_bytes": 0, "spills": 0, "shared_bytes": 1024, "instructions": 1200,
    "loop_instructions": 850, "tensor_core": 64, "loads": 20, "stores": 5, "barriers": 10,
    "atomics": 2, "occupancy": 1, "opcodes": {},
}  # fmt: skip


def test_faults_are_stack_and_shared_memory_beyond_limit_or_plan():
    planned = JOB.variant.plan.shared_bytes
    assert resources.exceeded_limits(JOB, FOUND) == []
    assert resources.exceeded_limits(JOB, FOUND | {"stack_bytes": 8}) == ["uses 8 bytes of stack"]
    assert "are planned" in resources.exceeded_limits(JOB, FOUND | {"shared_bytes": planned + 1})[0]
    assert "of 232448 bytes" in resources.exceeded_limits(JOB, FOUND | {"shared_bytes": 300000})[0]


@pytest.fixture
def compiled(monkeypatch):
    """The jobs compiled so far, by a compiler that makes the same of every job."""
    seen = []
    result = {"status": "ok", "reason": None, "compile_s": 1.0, "resources": FOUND}

    def compile_all(todo, dump, deadline):
        seen.extend(todo)
        return [(job, result) for job in todo]

    monkeypatch.setattr(resources, "compile_all", compile_all)
    return seen


def test_what_is_recorded_is_not_compiled_again(tmp_path, monkeypatch, compiled):
    todo = resources.plan_jobs(H100, Grid((512,), (16, 64), ("gru",), ("fp32:tf32",)))
    folder, first, left = resources.compile_missing(todo[:1], tmp_path)
    assert (len(first), left, len(compiled)) == (1, 0, 1)
    _, everything, left = resources.compile_missing(todo, tmp_path)
    assert (len(everything), left, len(compiled)) == (len(todo), 0, len(todo))
    _, again, _ = resources.compile_missing(todo, tmp_path)
    assert len(compiled) == len(todo)
    assert {r["case_id"] for r in again} == {r["case_id"] for r in everything}
    plain, packed = folder / "records", tmp_path / "packed.jsonl.gz"
    store.merge([plain], packed)
    (file,) = store.record_files(plain)
    packed.rename(file.with_name(file.name + ".gz"))
    file.unlink()
    resources.compile_missing(todo, tmp_path)  # compressed records count too
    assert len(compiled) == len(todo) and not file.exists()
    records = list(store.read(folder))
    assert len(records) == len(todo)
    assert {(r["kind"], r["precision"]) for r in records} == {("resources", "tf32")}
    assert {r["pass"] for r in records} == {"fwd", "fwd+bwd"}
    monkeypatch.setattr(resources, "code_hash", lambda names=(): "changed")
    resources.compile_missing(todo, tmp_path)
    assert len(compiled) == 2 * len(todo)


def test_a_plan_that_serves_other_batches_is_recorded_without_compiling(tmp_path, compiled):
    resources.compile_missing([JOB], tmp_path)
    _, (record,), _ = resources.compile_missing([replace(JOB, batches=(8, 16))], tmp_path)
    assert len(compiled) == 1
    assert (record["B"], record["resources"]["batches"]) == (8, [8, 16])
    resources.compile_missing([JOB], tmp_path)  # a smaller grid keeps the recorded batches
    assert list(store.read(tmp_path / "compiled-sm_90"))[-1]["resources"]["batches"] == [8, 16]


def test_the_hash_of_the_code_is_the_same_in_every_python(monkeypatch):
    tree = ast.parse("def f(x): return [x]")
    plain = resources.dump_tree(tree)
    assert "type_params" not in plain and "decorator_list=[]" in plain
    of_3_13 = plain.replace("decorator_list=[]", "decorator_list=[], type_params=[]")
    dump = Mock(return_value=of_3_13)
    monkeypatch.setattr(resources, "ast", SimpleNamespace(dump=dump, AST=ast.AST))
    monkeypatch.setattr(resources, "sys", SimpleNamespace(version_info=(3, 13)))
    assert resources.dump_tree(tree) == plain
    dump.assert_called_with(tree, show_empty=True)


def test_a_failure_of_the_compiler_is_a_record_with_its_reason(tmp_path, monkeypatch):
    failed = {"status": "error", "reason": "the compiler's process died", "compile_s": None}
    monkeypatch.setattr(resources, "compile_all", lambda *_: [(JOB, failed)])
    _, records, _ = resources.compile_missing([JOB], tmp_path)
    assert {(r["status"], r["resources"]) for r in records} == {("error", None)}
    assert any("process died" in line for line in resources.summary_lines(records))


def test_warnings_about_a_binary_are_not_printed(tmp_path, monkeypatch, capfd):
    tool = tmp_path / "backends/nvidia/bin/cuobjdump"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho warning >&2\necho $1\n")
    tool.chmod(0o755)
    monkeypatch.setattr("triton.__file__", str(tmp_path / "__init__.py"))
    kernel = SimpleNamespace(asm={"cubin": b""})
    assert compile_kernel.cuobjdump(kernel, "-sass") == "-sass\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("hidden", "accepted"),
    [("0", "hidden is 0; accepted: an integer"), ("1,x", "hidden is x; accepted: an integer")],
)
def test_hidden_sizes_that_cannot_be_planned_are_named(hidden, accepted):
    with pytest.raises(ValueError, match=accepted):
        resources_command.GridOptions(hidden=hidden).select("h100")


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="device is 'h99'; accepted: h100, a100"):
        resources_command.command(chosen=resources_command.GridOptions(), device="h99")


# The compiler itself


def tiled(pass_, block_b):
    """LSTM, H=1024, bf16, with a batch tile of this size, whatever the plan prefers."""
    plans = persistent_plans(Problem(4, 4096, 1024, 1, "bfloat16"), H100, pass_ == "bwd")
    plan = next(p for p in plans if p.block_b == block_b and p.resident == p.chunks)
    return replace(variant("lstm", pass_, 1024), plan=replace(plan, tiles=1))


REGRESSION = {
    "forward": variant("lstm", "fwd", 1024),
    "backward": variant("lstm", "bwd", 1024),
    **{f"forward, tile {b}": tiled("fwd", b) for b in (32, 64)},
    **{f"backward, tile {b}": tiled("bwd", b) for b in (16, 32, 64)},
    "GRU backward": variant("gru", "bwd", 1024),
    "single program": variant("lstm", "bwd", 128),
    "tf32": variant("lstm", "fwd", 512, "fp32:tf32"),
    "stepwise forward": variant("lstm", "fwd", 1536, mode="stepwise"),
    "stepwise backward": variant("lstm", "bwd", 1024, B=64, mode="stepwise"),
}


@pytest.fixture(scope="module")
def regression():
    """The regression subset, compiled for an H100."""
    names = {resources.Job(each, (16,), H100): name for name, each in REGRESSION.items()}
    return {names[job]: (job, result) for job, result in resources.compile_all(list(names))}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGRESSION)
def test_no_stack_and_no_more_shared_memory_than_planned(regression, name):
    job, result = regression[name]
    assert result["status"] == "ok", result["reason"]
    found = result["resources"]
    assert resources.exceeded_limits(job, found) == []
    assert found["spills"] == 0
    assert found["occupancy"] >= 1
    assert found["tensor_core"] > 0, "products run on tensor cores"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("forward", 900), ("backward", 1050)])
def test_the_loop_over_time_is_short(regression, name, most):
    found = regression[name][1]["resources"]
    assert 300 < found["loop_instructions"] <= most
    assert found["tensor_core"] == 64, "4 chunks of 256 columns, 16 at a time"


@pytest.mark.slow
def test_a_dump_keeps_the_binaries(tmp_path):
    job = resources.Job(variant("rnn_tanh", "fwd", 16), (16,), H100)
    ((_, result),) = resources.compile_all([job], dump=tmp_path)
    assert result["status"] == "ok"
    (binary,) = tmp_path.glob("rnn_tanh-fwd-H16-*.cubin")
    assert binary.read_bytes()[:4] == b"\x7fELF"
