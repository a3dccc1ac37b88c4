//! `hardway`: see the library's documentation.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use deploy::cluster::{Cluster, Ports};
use deploy::{certs, down, explain, image, preflight, supervisor, up};

/// Where a cluster lives unless told otherwise.
const DEFAULT_DIR: &str = "/var/lib/hardway";

#[derive(Parser)]
#[command(name = "hardway", version, about = "A Kubernetes cluster, the hard way, in one command")]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a one-node cluster on this machine and wait until it is Ready
    Up(UpFlags),
    /// Stop the cluster and remove everything of it
    Down {
        /// The cluster's directory
        #[arg(long, default_value = DEFAULT_DIR)]
        dir: PathBuf,
        /// Keep etcd's data, certificates and kubeconfigs for the next `up`
        #[arg(long)]
        keep_data: bool,
    },
    /// Show every certificate's end date
    Certs {
        /// Directory of certificates
        #[arg(long, default_value = "/var/lib/hardway/pki")]
        dir: PathBuf,
    },
    /// Show where a pod could go and why, as the scheduler sees it
    #[command(subcommand)]
    Explain(ExplainVerb),
    /// Make and import container images without a registry
    #[command(subcommand)]
    Image(ImageVerb),
    /// Keep the daemons of a directory running (started by `up` where there is no systemd)
    #[command(hide = true)]
    Supervise {
        /// The cluster's directory
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct UpFlags {
    /// Directory for everything the cluster keeps
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Directory of the daemons (default: where this program is)
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The node's name (default: this machine's host name)
    #[arg(long)]
    node_name: Option<String>,
    /// The node's address (default: the one that the default route uses)
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Address range of pods
    #[arg(long, default_value = "10.244.0.0/24")]
    pod_cidr: String,
    /// Address range of Services
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cidr: String,
    /// Seconds to wait for the node to be Ready
    #[arg(long, default_value_t = 120)]
    timeout_seconds: u64,
}

#[derive(Subcommand)]
enum ExplainVerb {
    /// Each node's scores by plugin, or what keeps the pod from it
    Pod {
        /// The pod
        name: String,
        /// Its namespace
        #[arg(long, short, default_value = "default")]
        namespace: String,
        /// Who asks; must be allowed to get /debug/explain
        #[arg(long, default_value = "/var/lib/hardway/admin.conf")]
        kubeconfig: PathBuf,
        /// The scheduler's secure port
        #[arg(long, default_value = "https://127.0.0.1:10259")]
        scheduler: String,
    },
}

#[derive(Subcommand)]
enum ImageVerb {
    /// Turn a directory or a static binary into an image, and import it into the cluster's containerd
    Pack {
        /// Directory (the image's root) or static binary (its entry point)
        path: PathBuf,
        /// Name and tag, e.g. hardway/web:v1
        #[arg(long)]
        tag: String,
        /// Program and arguments to start
        #[arg(long, num_args = 1..)]
        entrypoint: Vec<String>,
        /// Write the archive to this file instead of importing it
        #[arg(long)]
        output: Option<PathBuf>,
        /// containerd's socket
        #[arg(long, default_value = "/var/lib/hardway/containerd/containerd.sock")]
        socket: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("cannot start the runtime").and_then(|runtime| runtime.block_on(run(cli.command)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hardway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Up(flags) => {
            let timeout = Duration::from_secs(flags.timeout_seconds);
            let cluster = describe(flags)?;
            up::up(&cluster, timeout).await?;
            print_next_steps(&cluster);
        }
        Verb::Down { dir, keep_data } => return take_down(&dir, keep_data).await,
        Verb::Certs { dir } => {
            let lines = certs::report(&dir, jiff::Timestamp::now());
            anyhow::ensure!(!lines.is_empty(), "no certificates (*.crt) below {}", dir.display());
            // a reader that closes the pipe early has seen enough
            let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        }
        Verb::Explain(ExplainVerb::Pod { name, namespace, kubeconfig, scheduler }) => {
            let lines = explain::pod(&kubeconfig, &scheduler, &namespace, &name).await.map_err(anyhow::Error::msg)?;
            let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        }
        Verb::Image(ImageVerb::Pack { path, tag, entrypoint, output, socket }) => {
            let archive = image::pack(&image::Image::of_path(&tag, &path, &entrypoint)?)?;
            match output {
                Some(file) => {
                    std::fs::write(&file, archive).with_context(|| format!("cannot write {}", file.display()))?;
                }
                None => image::import(&socket, &tag, &archive).await?,
            }
        }
        Verb::Supervise { dir } => supervisor::run(&dir).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(flags: UpFlags) -> anyhow::Result<Cluster> {
    let bin_dir = match flags.bin_dir {
        Some(dir) => dir,
        None => std::env::current_exe()?.parent().map(PathBuf::from).context("this program has no directory")?,
    };
    let node = match flags.node_name {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase(),
    };
    std::fs::create_dir_all(&flags.dir).with_context(|| format!("cannot make {}", flags.dir.display()))?;
    Ok(Cluster {
        dir: flags.dir.canonicalize()?,
        bin_dir: bin_dir.canonicalize().with_context(|| format!("no directory {}", bin_dir.display()))?,
        node,
        node_ip: flags.node_ip.map_or_else(default_address, Ok)?,
        dns_ip: deploy::cluster::nth_address(&flags.service_cidr, 10).map_err(anyhow::Error::msg)?,
        pod_cidr: flags.pod_cidr,
        service_cidr: flags.service_cidr,
        ports: Ports::default(),
        cni_bin_dir: preflight::find_cni().unwrap_or_else(|| PathBuf::from("/opt/cni/bin")),
    })
}

/// The source address that the kernel would use towards the outside; no packet is sent.
fn default_address() -> anyhow::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket
        .connect("192.0.2.1:9")
        .context("this machine has no route to the outside to take its address from: say --node-ip")?;
    Ok(socket.local_addr()?.ip())
}

async fn take_down(dir: &std::path::Path, keep_data: bool) -> anyhow::Result<ExitCode> {
    let state = Cluster::state_file(dir);
    if !state.exists() {
        println!("there is no cluster in {}", dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read(&state).with_context(|| format!("cannot read {}", state.display()))?;
    let cluster: Cluster = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", state.display()))?;
    let left = down::down(&cluster, keep_data).await;
    for thing in &left {
        eprintln!("hardway: left behind: {thing}");
    }
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_next_steps(cluster: &Cluster) {
    let kubeconfig = cluster.admin_kubeconfig();
    println!(
        "\nThe cluster is up. Try:\n\n  export KUBECONFIG={}\n  kubectl get nodes\n  \
         kubectl create deployment web --image={} --replicas=3\n  \
         kubectl expose deployment web --port=80 --type=NodePort\n  \
         curl http://$(kubectl get service web -o jsonpath='{{.spec.clusterIP}}')/\n\n\
         Logs are in {}. `make down` removes everything.",
        kubeconfig.display(),
        deploy::cluster::WEB_IMAGE,
        cluster.path("logs").display(),
    );
}
