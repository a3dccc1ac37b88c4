#!/usr/bin/env python3
"""What many Services cost kube-proxy, this tree's and any other, in one run.

  proxy-scale.py --bin DIR [--peer NAME=FILE ...] [--modes nftables,iptables] [--services 10000] [--endpoints 10] [--rounds 20]

Runs as root, in a network namespace of its own: etcd and the API server of DIR (made by `../shared/bench/cluster`), then for
each mode one kube-proxy after the other, each from an empty ruleset. Told are the first full write (until the rules are there;
CPU with the programs that it runs), what one endpoint that comes or goes costs (wall time by the proxy's own metric, CPU) and
its memory. CPU is in ticks of 10 ms.
"""
import argparse, concurrent.futures, http.client, json, os, shutil, signal, ssl, subprocess, sys, tempfile, threading, time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.join(HERE, '..', '..', 'shared', 'bench')
SPACE, BASE = 'hw-proxy-scale', 28000
METRICS, HEALTH = 28100, 28101
FULL, PARTIAL = 'kubeproxy_sync_full_proxy_rules_duration_seconds', 'kubeproxy_sync_partial_proxy_rules_duration_seconds'


class Api:
    """Objects of the API server, by its administrator."""

    def __init__(self, directory):
        self.tls = ssl.create_default_context(cafile=directory + '/pki/ca.crt')
        self.tls.load_cert_chain(directory + '/pki/admin.crt', directory + '/pki/admin.key')
        self.local = threading.local()

    def ask(self, method, path, body, kind='application/json'):
        if not hasattr(self.local, 'connection'):
            self.local.connection = http.client.HTTPSConnection('127.0.0.1', BASE + 2, context=self.tls)
        self.local.connection.request(method, path, json.dumps(body), {'Content-Type': kind})
        answer = self.local.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit('%s %s: %d %s' % (method, path, answer.status, text[:300]))


def address(base, offset):
    value = base + offset
    return '.'.join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def endpoints(at, count):
    return [{'addresses': [address(0x0a800000, at * 64 + n)], 'conditions': {'ready': True}, 'nodeName': 'node-%d' % (n % 50)}
            for n in range(count)]


def service(api, at, count):
    name = 's%d' % at
    port = {'name': 'p', 'port': 80, 'targetPort': 8080, 'protocol': 'TCP'}
    api.ask('POST', '/api/v1/namespaces/default/services', {
        'apiVersion': 'v1', 'kind': 'Service', 'metadata': {'name': name},
        'spec': {'clusterIP': address(0x0a000000, 256 + at), 'ports': [port]}})
    api.ask('POST', '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices', {
        'apiVersion': 'discovery.k8s.io/v1', 'kind': 'EndpointSlice', 'addressType': 'IPv4',
        'metadata': {'name': name, 'labels': {'kubernetes.io/service-name': name}},
        'ports': [{'name': 'p', 'port': 8080, 'protocol': 'TCP'}], 'endpoints': endpoints(at, count)})


def metric(name):
    """The sum over address families; 0 for what is not told."""
    try:
        text = urllib.request.urlopen('http://127.0.0.1:%d/metrics' % METRICS, timeout=60).read().decode()
    except OSError:
        return 0.0
    lines = [line for line in text.splitlines() if line.startswith(name) and (line[len(name)] in ' {')]
    return sum(float(line.rsplit(' ', 1)[1]) for line in lines if 'IPv6' not in line)


def cpu(pid):
    """Seconds of a process and of those that it waited for."""
    with open('/proc/%d/stat' % pid) as stat:
        fields = stat.read().rsplit(')', 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / 100


def until(what, seconds=1200):
    end = time.time() + seconds
    while not what():
        if time.time() > end:
            sys.exit('it did not come about in time')
        time.sleep(0.02)


def proxy(name, binary, mode, directory, api, options):
    subprocess.run(['nft', 'flush', 'ruleset'], check=True)
    command = [binary, '--kubeconfig=%s/proxy.conf' % directory, '--proxy-mode=' + mode, '--cluster-cidr=10.128.0.0/9',
               '--hostname-override=node-a', '--healthz-bind-address=127.0.0.1:%d' % HEALTH,
               '--metrics-bind-address=127.0.0.1:%d' % METRICS, '--conntrack-max-per-core=0']
    started = time.time()
    with open('%s/%s-%s.log' % (directory, name, mode), 'w') as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or metric(FULL + '_count') >= 1)
        if process.poll() is not None:
            sys.exit('%s ended: see %s' % (name, log.name))
        first, first_cpu = time.time() - started, cpu(process.pid)
        time.sleep(5)  # what is still queued after the first write is not a change's cost
        before, spent, count = cpu(process.pid), metric(PARTIAL + '_sum'), metric(PARTIAL + '_count')
        for n in range(options.rounds):
            seen = metric(PARTIAL + '_count')
            api.ask('PATCH', '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s7',
                    {'endpoints': endpoints(7, options.endpoints - 1 + n % 2)}, 'application/merge-patch+json')
            until(lambda: metric(PARTIAL + '_count') > seen)
        changes = metric(PARTIAL + '_count') - count
        with open('/proc/%d/status' % process.pid) as status:
            memory = next(int(line.split()[1]) for line in status if line.startswith('VmRSS')) / 1024
        print('| %s | %s | %.1f s / %.1f s | %.0f ms / %.0f ms | %.0f MB |' % (
            mode, name, first, first_cpu, (metric(PARTIAL + '_sum') - spent) / changes * 1000,
            (cpu(process.pid) - before) / options.rounds * 1000, memory), flush=True)
    finally:
        process.terminate()
        process.wait()


def inside(options, directory):
    # The API server wants an address to be known by.
    for line in ('link set lo up', 'link add uplink type veth peer name far', 'link set far up',
                 'link set uplink up', 'address add 192.0.2.1/24 dev uplink', 'route add default via 192.0.2.2'):
        subprocess.run(['ip'] + line.split(), check=True)
    environment = dict(os.environ, HARDWAY_BIN=os.path.abspath(options.bin))
    cluster = [sys.executable, BENCH + '/cluster']
    subprocess.run(cluster + ['up', BENCH + '/targets/hardway.env', directory, str(BASE)], check=True, env=environment,
                   stdout=subprocess.DEVNULL)
    try:
        api = Api(directory)
        node = {'apiVersion': 'v1', 'kind': 'Node', 'metadata': {'name': 'node-a'}}
        address_of_node = {'status': {'addresses': [{'type': 'InternalIP', 'address': '192.0.2.1'}]}}
        api.ask('POST', '/api/v1/nodes', node)
        api.ask('PATCH', '/api/v1/nodes/node-a/status', address_of_node, 'application/strategic-merge-patch+json')
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda at: service(api, at, options.endpoints), range(options.services)))
        print('%d Services with %d endpoints each' % (options.services, options.endpoints))
        print('| mode | kube-proxy | first write, wall / CPU | one endpoint, wall / CPU | RSS |\n|---|---|---|---|---|', flush=True)
        binaries = [('hardway', options.bin + '/kube-proxy')] + [peer.split('=', 1) for peer in options.peer]
        for mode in options.modes.split(','):
            for name, binary in binaries:
                proxy(name, binary, mode, directory, api, options)
    finally:
        subprocess.run(cluster + ['down', directory], stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--bin', required=True)
    parser.add_argument('--peer', action='append', default=[])
    parser.add_argument('--modes', default='nftables,iptables')
    for name, default in (('services', 10000), ('endpoints', 10), ('rounds', 20)):
        parser.add_argument('--' + name, type=int, default=default)
    parser.add_argument('--inside', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        subprocess.run(['ip', 'netns', 'add', SPACE], check=True)
        again = [sys.executable, os.path.abspath(__file__), '--inside'] + sys.argv[1:]
        # The same process, so that a signal ends what it has started and not only its parent.
        os.execvp('ip', ['ip', 'netns', 'exec', SPACE] + again)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    directory = tempfile.mkdtemp(prefix='proxy-scale')
    try:
        inside(options, directory)
        shutil.rmtree(directory)
    finally:
        subprocess.run(['ip', 'netns', 'delete', SPACE], check=True)


main()
