#!/usr/bin/env python3
"""How long a pod takes to be Ready, against the same sandbox and container by raw CRI calls in the same run.

  pod-start.py --kubeconfig FILE --node NAME --image IMAGE [--socket PATH] [--rounds 20] [--many 100]

Runs on the node (in its network and mount namespaces), as root. Needs the Python packages grpcio and grpcio-tools; the
interface is compiled from kubelet/proto/cri.proto. Rounds of one kind and the other take turns, so that both meet the
same load; what is told are medians in milliseconds, and for many at once the time until the last one runs.
"""
import argparse, base64, concurrent.futures, http.client, importlib, json, os, ssl, statistics, subprocess, sys
import tempfile, threading, time, uuid

# What is gone from the API is cleared away on the node a moment later, which must not count for the next one.
PAUSE = 2
HERE = os.path.dirname(os.path.abspath(__file__))


class Runtime:
    """Sandboxes and containers by CRI."""

    def __init__(self, socket, image):
        out = tempfile.mkdtemp()
        proto = os.path.join(HERE, '..', 'kubelet', 'proto')
        command = [sys.executable, '-m', 'grpc_tools.protoc', '-I', proto, '--python_out', out, '--grpc_python_out', out]
        subprocess.run(command + ['cri.proto'], check=True)
        sys.path.insert(0, out)
        import grpc
        self.cri, calls = importlib.import_module('cri_pb2'), importlib.import_module('cri_pb2_grpc')
        self.api = calls.RuntimeServiceStub(grpc.insecure_channel('unix://' + socket))
        self.image = image

    def start(self, name):
        """Makes and starts one; what `stop` wants."""
        cri, uid = self.cri, str(uuid.uuid4())
        sandbox = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace='raw'), log_directory='/tmp/pod-start-logs',
            linux=cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(
                seccomp=cri.SecurityProfile(profile_type=0))))
        made = self.api.RunPodSandbox(cri.RunPodSandboxRequest(config=sandbox)).pod_sandbox_id
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name='c'), image=cri.ImageSpec(image=self.image), log_path='c.log',
            linux=cri.LinuxContainerConfig())
        container = self.api.CreateContainer(
            cri.CreateContainerRequest(pod_sandbox_id=made, config=config, sandbox_config=sandbox)).container_id
        self.api.StartContainer(cri.StartContainerRequest(container_id=container))
        return made

    def stop(self, sandbox):
        self.api.StopPodSandbox(self.cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        self.api.RemovePodSandbox(self.cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


class Cluster:
    """Pods by the API; one watch tells when they are Ready and when they are gone."""

    def __init__(self, kubeconfig, node, image):
        text = subprocess.run(['kubectl', '--kubeconfig', kubeconfig, 'config', 'view', '--raw', '-o', 'json'],
                              capture_output=True, check=True).stdout
        config = json.loads(text)
        cluster, user = config['clusters'][0]['cluster'], config['users'][0]['user']
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster['certificate-authority-data']).decode())
        with tempfile.NamedTemporaryFile('wb') as pem:
            pem.write(base64.b64decode(user['client-certificate-data']) + b'\n' + base64.b64decode(user['client-key-data']))
            pem.flush()
            self.tls.load_cert_chain(pem.name)
        self.host, self.node, self.image = cluster['server'].removeprefix('https://'), node, image
        self.ready, self.gone, self.changed = {}, set(), threading.Condition()
        self.local = threading.local()
        version = json.loads(self.ask('GET', '/api/v1/namespaces/default/pods?labelSelector=bench'))['metadata']['resourceVersion']
        threading.Thread(target=self.watch, args=[version], daemon=True).start()

    def ask(self, method, path, body=None):
        if not hasattr(self.local, 'connection'):
            self.local.connection = http.client.HTTPSConnection(self.host, context=self.tls)
        self.local.connection.request(method, path, json.dumps(body) if body else None, {'Content-Type': 'application/json'})
        answer = self.local.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit('%s %s: %d %s' % (method, path, answer.status, text[:300]))
        return text

    def watch(self, version):
        connection = http.client.HTTPSConnection(self.host, context=self.tls)
        connection.request('GET', '/api/v1/namespaces/default/pods?watch=1&labelSelector=bench&resourceVersion=' + version)
        for line in connection.getresponse():
            event = json.loads(line)
            pod, now = event['object'], time.monotonic()
            conditions = pod.get('status', {}).get('conditions', [])
            with self.changed:
                if any(c['type'] == 'Ready' and c['status'] == 'True' for c in conditions):
                    self.ready.setdefault(pod['metadata']['name'], now)
                if event['type'] == 'DELETED':
                    self.gone.add(pod['metadata']['name'])
                self.changed.notify_all()

    def start(self, name):
        """Creates one and waits until it is Ready."""
        spec = {'nodeSelector': {'kubernetes.io/hostname': self.node}, 'terminationGracePeriodSeconds': 0,
                'automountServiceAccountToken': False, 'containers': [{'name': 'c', 'image': self.image}]}
        self.ask('POST', '/api/v1/namespaces/default/pods', {
            'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': name, 'labels': {'bench': 'y'}}, 'spec': spec})
        with self.changed:
            if not self.changed.wait_for(lambda: name in self.ready, 600):
                sys.exit('%s is not ready' % name)
        return name

    def stop(self, name):
        self.ask('DELETE', '/api/v1/namespaces/default/pods/' + name)
        with self.changed:
            if not self.changed.wait_for(lambda: name in self.gone, 600):
                sys.exit('%s is not gone' % name)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--kubeconfig', required=True)
    ap.add_argument('--node', required=True)
    ap.add_argument('--image', required=True)
    ap.add_argument('--socket', default='/run/containerd/containerd.sock')
    ap.add_argument('--rounds', type=int, default=20)
    ap.add_argument('--many', type=int, default=100)
    a = ap.parse_args()
    kinds = {'raw CRI': Runtime(a.socket, a.image), 'pod': Cluster(a.kubeconfig, a.node, a.image)}
    run = uuid.uuid4().hex[:6]
    times = {kind: [] for kind in kinds}
    for at in range(a.rounds):
        for kind, maker in kinds.items():
            time.sleep(PAUSE)
            begun = time.monotonic()
            made = maker.start('b-%s-%d' % (run, at))
            times[kind].append((time.monotonic() - begun) * 1000)
            maker.stop(made)
    for kind, values in times.items():
        print('%s: median %.0f ms of %d (%.0f to %.0f)' % (kind, statistics.median(values), len(values), min(values), max(values)))
    print('ratio %.2f' % (statistics.median(times['pod']) / statistics.median(times['raw CRI'])))
    whole = {}
    for kind, maker in kinds.items():
        time.sleep(PAUSE)
        with concurrent.futures.ThreadPoolExecutor(a.many or 1) as pool:
            begun = time.monotonic()
            made = list(pool.map(maker.start, ['m-%s-%d' % (run, at) for at in range(a.many)]))
            whole[kind] = time.monotonic() - begun
            list(pool.map(maker.stop, made))
        print('%s: %d at once in %.1f s' % (kind, a.many, whole[kind]))
    print('ratio %.2f' % (whole['pod'] / whole['raw CRI']))


if __name__ == '__main__':
    main()
