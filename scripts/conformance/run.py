#!/usr/bin/env python3
"""Run conformance tests with e2e.test and keep one line per test.

  run.py --bin DIR --out DIR --kubeconfig FILE [--netns /run/netns/NS-cp] [--procs 6]
         [--names FILE] [--sig sig-auth,sig-cli] [--match REGEX] [--serial no|only|all] [--timeout 2h]

DIR of --bin holds e2e.test, ginkgo and kubectl (or use --kubectl). --names takes a file with one test
name per line (further tab-separated columns and lines starting with # are ignored); without it the
list comes from `e2e.test --list-conformance-tests`. Tests that carry [Serial] or [Disruptive] run alone.

Result: OUT/results.tsv (name, outcome, seconds, reason), updated test by test across runs; OUT/last.json
is ginkgo's report of the last run, OUT/last.log its output. Exit code 0 when every chosen test passed.
"""
import argparse, json, os, re, subprocess, sys, time


def conformance_names(e2e):
    text = subprocess.run([e2e, '--list-conformance-tests'], capture_output=True, text=True, check=True).stdout
    names, current = [], None
    for line in text.splitlines():  # block of "  key: value" lines; a long value goes on, deeper indented
        m = re.match(r'^(?:- |  )([a-z]+): (.*)$', line)
        if m:
            if current is not None:
                names.append(current)
            current = m.group(2).strip() if m.group(1) == 'codename' else None
        elif current is not None and line.startswith('    '):
            current += ' ' + line.strip()
    if current is not None:
        names.append(current)
    out = []
    for n in names:
        if n[:1] == "'":
            n = n[1:-1].replace("''", "'")
        elif n[:1] == '"':
            n = json.loads(n)
        out.append(n)
    return sorted(set(out))


def read_names(path):
    rows = []
    with open(path) as fh:
        for line in fh:
            line = line.rstrip('\n')
            if line and not line.startswith('#'):
                rows.append(next(c for c in line.split('\t') if c.startswith('[sig-')))
    return rows


def load(path):
    rows = {}
    if os.path.exists(path):
        with open(path) as fh:
            for line in fh:
                cols = line.rstrip('\n').split('\t')
                rows[cols[0]] = (cols + ['', '', ''])[1:4]
    return rows


def save(path, rows):
    with open(path + '.new', 'w') as fh:
        for name in sorted(rows):
            fh.write('\t'.join([name] + rows[name]) + '\n')
    os.replace(path + '.new', path)


def run(a, names, procs, rows):
    focus = '^(' + '|'.join(re.escape(n).replace('\\ ', ' ') for n in names) + ')$'
    # ginkgo matches "suite description + spec text"; the anchor at the front must allow for it
    focus = focus.replace('^(', '(', 1)
    report = os.path.join(a.out, 'last.json')
    if os.path.exists(report):
        os.unlink(report)
    cmd = ['nsenter', '--net=' + a.netns] if a.netns else []
    cmd += [os.path.join(a.bin, 'ginkgo'), 'run', '--procs=%d' % procs, '--no-color', '--timeout=' + a.timeout,
            '--output-interceptor-mode=none', '--json-report=last.json', '--output-dir=' + a.out,
            '--focus=' + focus, os.path.join(a.bin, 'e2e.test'), '--',
            '--provider=skeleton', '--kubeconfig=' + a.kubeconfig, '--kubectl-path=' + a.kubectl,
            '--num-nodes=-1', '--disable-log-dump=true', '--dump-logs-on-failure=%s' % str(a.dump).lower()]
    began = time.time()
    with open(os.path.join(a.out, 'last.log'), 'w') as log:
        rc = subprocess.run(cmd, stdout=log, stderr=subprocess.STDOUT).returncode
    wall = time.time() - began
    if not os.path.exists(report):
        sys.exit('no report (rc %d): see %s' % (rc, os.path.join(a.out, 'last.log')))
    count = {}
    with open(report) as fh:
        for suite in json.load(fh):
            for spec in suite.get('SpecReports') or []:
                if spec.get('LeafNodeType') != 'It':
                    if spec.get('State') == 'failed':
                        print('SUITE NODE FAILED', spec.get('LeafNodeType'), (spec.get('Failure') or {}).get('Message', '')[:400])
                    continue
                name = ' '.join((spec.get('ContainerHierarchyTexts') or []) + [spec.get('LeafNodeText', '')])
                if name not in names:
                    continue
                if spec['State'] == 'interrupted' or (spec['State'] == 'skipped' and not (spec.get('Failure') or {}).get('Message')):
                    continue  # not chosen, or the run was stopped before or in it; a test that skips itself says why
                why = ''
                if spec['State'] not in ('passed',):
                    why = re.sub(r'\s+', ' ', (spec.get('Failure') or {}).get('Message', ''))[:600]
                rows[name] = [spec['State'], '%.0f' % (spec.get('RunTime', 0) / 1e9), why]
                count[spec['State']] = count.get(spec['State'], 0) + 1
    print('%d tests, %d processes, %.0f s: %s' % (len(names), procs, wall, count), flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--bin', required=True)
    ap.add_argument('--out', required=True)
    ap.add_argument('--kubeconfig', required=True)
    ap.add_argument('--kubectl')
    ap.add_argument('--netns')
    ap.add_argument('--procs', type=int, default=6)
    ap.add_argument('--names')
    ap.add_argument('--sig')
    ap.add_argument('--match')
    ap.add_argument('--serial', choices=['no', 'only', 'all'], default='all')
    ap.add_argument('--timeout', default='2h')
    ap.add_argument('--dump', action='store_true', help='on failure, dump events and pod logs')
    ap.add_argument('--not-in', help='skip tests that this results.tsv has as passed')
    ap.add_argument('--list', action='store_true', help='only print the chosen names')
    a = ap.parse_args()
    for k in ('bin', 'out', 'kubeconfig'):
        setattr(a, k, os.path.abspath(getattr(a, k)))
    a.kubectl = os.path.abspath(a.kubectl or os.path.join(a.bin, 'kubectl'))
    os.makedirs(a.out, exist_ok=True)
    names = read_names(a.names) if a.names else conformance_names(os.path.join(a.bin, 'e2e.test'))
    if a.sig:
        names = [n for n in names if any(n.startswith('[%s]' % s) for s in a.sig.split(','))]
    if a.match:
        names = [n for n in names if re.search(a.match, n)]
    if a.not_in:
        done = load(a.not_in)
        names = [n for n in names if done.get(n, [''])[0] != 'passed']
    if not names:
        sys.exit('no test was chosen')
    serial = [n for n in names if '[Serial]' in n or '[Disruptive]' in n]
    free = [n for n in names if n not in set(serial)]
    if a.list:
        print('\n'.join((free if a.serial != 'only' else []) + (serial if a.serial != 'no' else [])))
        return
    path = os.path.join(a.out, 'results.tsv')
    rows = load(path)
    chosen = []
    if free and a.serial != 'only':
        run(a, set(free), min(a.procs, len(free)), rows)
        save(path, rows)
        chosen += free
    if serial and a.serial != 'no':
        run(a, set(serial), 1, rows)
        save(path, rows)
        chosen += serial
    bad = [n for n in chosen if rows.get(n, [''])[0] != 'passed']
    for n in bad:
        state, secs, why = rows.get(n, ['not run', '', ''])
        print('%s\t%s s\t%s\n\t%s' % (state, secs, n, why))
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
