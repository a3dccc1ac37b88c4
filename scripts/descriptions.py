#!/usr/bin/env python3
"""Makes apiserver/data/descriptions.json.gz: what the served types and their fields are for, in upstream's words
(Apache-2.0), which `kubectl explain` shows.

  descriptions.py DIRECTORY    with the documents that a server of the release answers below /openapi/v3
"""
import gzip
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
served = {row["name"] for row in json.loads((ROOT / "apimachinery/schema/types.json").read_text())["types"]}
definitions = {}
for document in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    definitions.update(json.loads(document.read_text()).get("components", {}).get("schemas", {}))
out = {}
for name, schema in sorted(definitions.items()):
    if name not in served and not name.startswith("io.k8s.apimachinery."):
        continue
    texts = {field: p["description"] for field, p in sorted(schema.get("properties", {}).items()) if p.get("description")}
    if schema.get("description"):
        texts[""] = schema["description"]
    if texts:
        out[name] = texts
data = json.dumps(out, separators=(",", ":"), ensure_ascii=False).encode()
target = ROOT / "apiserver/data/descriptions.json.gz"
target.parent.mkdir(exist_ok=True)
target.write_bytes(gzip.compress(data, 9, mtime=0))
print(f"{len(out)} types, {len(data)} bytes, {target.stat().st_size} compressed")
