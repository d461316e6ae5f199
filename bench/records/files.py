"""The names of a device's result files, for those who write them and those who read them."""

from bench.records.provenance import ROOT

RESULTS = ROOT / "results"  # a folder per device, named by `provenance.slug`
RECORDS = "records"  # in it: the record files and the files of studies
SUFFIXES = (".jsonl", ".jsonl.gz")  # of a record file: plain, compressed

# In RECORDS:
ACTIVATIONS = "activations.json"
REPEATABILITY = "repeatability.json"
TRAINING = "training.json"
MEMORY = "memory.json"
# In the device's folder:
CHECKS = "check_gpu.json"
FLOOR = "floor.json"  # all that the microbenchmarks measured
LIMITS = "limits.json"  # the best rates among them
CAMPAIGN = "campaign.json"
