//! Command lines as upstream's daemons read them.
//!
//! Guarantees: `_` equals `-` in flag names; booleans are `--x`, `--x=true`, `--x=false`; the last of a repeated scalar
//! wins; an unknown flag ends the daemon with exit status 1 and the nearest known name; `--version` prints
//! `Kubernetes v1.36.3`. Flags that upstream removed are accepted with one line that says what to use now, or refused
//! when accepting them would be unsafe.
//! Lists (upstream's `stringSlice`) are `Vec<String>` with clap's `value_delimiter = ','`: repeated flags append.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

pub use crate::duration::GoDuration;
use crate::version;

/// A flag that upstream has removed.
#[derive(Clone, Copy, Debug)]
pub struct LegacyFlag {
    /// Without dashes, normalised to `-`.
    pub name: &'static str,
    /// False for booleans: `--x value` then leaves `value` alone.
    pub takes_value: bool,
    /// What to do when it is given.
    pub fate: Fate,
}

/// What happens to a removed flag.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// Ignored with one warning; the text says what to use now.
    Ignored(&'static str),
    /// Another flag took its place with the same meaning and value.
    Renamed(&'static str),
    /// Refused: ignoring it would leave the cluster less safe or differently behaved than its operator believes.
    Refused(&'static str),
}

/// The klog flags that every daemon had before v1.26.
const KLOG: &[LegacyFlag] = &[
    klog("logtostderr", false),
    klog("alsologtostderr", false),
    klog("stderrthreshold", true),
    klog("log-dir", true),
    klog("log-file", true),
    klog("log-file-max-size", true),
    klog("log-backtrace-at", true),
    klog("add-dir-header", false),
    klog("one-output", false),
    klog("skip-headers", false),
    klog("skip-log-headers", false),
];

const fn klog(name: &'static str, takes_value: bool) -> LegacyFlag {
    LegacyFlag { name, takes_value, fate: Fate::Ignored("removed in v1.26: logs always go to standard error") }
}

/// Reads the process's command line; prints and ends the process on `--help`, `--version` and errors.
pub fn parse<T: clap::Parser>(name: &str, legacy: &[LegacyFlag]) -> T {
    match parse_from(name, legacy, std::env::args_os().skip(1)) {
        Ok((flags, warnings)) => {
            for warning in warnings {
                eprintln!("{warning}");
            }
            flags
        }
        Err(Exit { code, message }) => {
            if code == 0 {
                // A reader that has seen enough (`--help | head`) is no failure.
                let _ = writeln!(std::io::stdout(), "{message}");
            } else {
                eprintln!("Error: {message}");
            }
            std::process::exit(code);
        }
    }
}

/// Why parsing ended the daemon: exit status and what to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 for help and version.
    pub code: i32,
    /// For the operator.
    pub message: String,
}

/// [`parse`] as a function of its arguments: the flags, and one warning line per removed flag that was given.
pub fn parse_from<T: clap::Parser>(
    name: &str,
    legacy: &[LegacyFlag],
    args: impl IntoIterator<Item = OsString>,
) -> Result<(T, Vec<String>), Exit> {
    let refuse = |message| Exit { code: 1, message };
    let (args, warnings) = normalise(legacy, args).map_err(refuse)?;
    if let Some(print) = args.iter().find_map(|a| a.to_str().and_then(version_flag)) {
        return Err(Exit { code: 0, message: print });
    }
    let command = prepare(T::command().name(name.to_owned()));
    let known = command.clone();
    let argv = std::iter::once(OsString::from(name)).chain(args);
    let mut matches = command.try_get_matches_from(argv).map_err(|e| exit_of(&e, &known))?;
    let flags = T::from_arg_matches_mut(&mut matches).map_err(|e| exit_of(&e, &known))?;
    Ok((flags, warnings))
}

fn version_flag(arg: &str) -> Option<String> {
    match arg {
        "--version" | "--version=true" => Some(format!("Kubernetes {}", version::GIT_VERSION)),
        "--version=raw" => Some(format!("{:#?}", version::info())),
        _ => None,
    }
}

/// Gives every clap argument pflag's habits.
fn prepare(command: clap::Command) -> clap::Command {
    command.disable_version_flag(true).disable_help_subcommand(true).args_override_self(true).mut_args(|arg| {
        if matches!(arg.get_id().as_str(), "help" | "version") {
            return arg;
        }
        let is_bool = matches!(arg.get_action(), clap::ArgAction::SetTrue)
            || arg.get_value_parser().type_id() == clap::builder::ValueParser::bool().type_id();
        if is_bool {
            let implied = matches!(arg.get_action(), clap::ArgAction::SetTrue) && arg.get_default_values().is_empty();
            let arg = if implied { arg.default_value("false") } else { arg };
            arg.action(clap::ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(clap::builder::StringValueParser::new().try_map(|text| go_bool(&text)))
        } else if arg.is_positional() {
            arg
        } else {
            arg.allow_hyphen_values(true)
        }
    })
}

fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Rewrites flag names and takes out the removed ones.
fn normalise(
    legacy: &[LegacyFlag],
    args: impl IntoIterator<Item = OsString>,
) -> Result<(Vec<OsString>, Vec<String>), String> {
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.to_str().and_then(|a| a.strip_prefix("--")).filter(|f| !f.is_empty()) else {
            out.push(arg);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
        let name = name.replace('_', "-");
        let render = |name: &str| OsString::from(value.map_or(format!("--{name}"), |v| format!("--{name}={v}")));
        let Some(old) = legacy.iter().chain(KLOG).find(|l| l.name == name) else {
            out.push(render(&name));
            continue;
        };
        match old.fate {
            Fate::Refused(why) => return Err(format!("--{name} is not accepted: {why}")),
            Fate::Renamed(new) => {
                warnings.push(format!("Flag --{name} was removed, --{new} is used instead"));
                out.push(render(new));
            }
            Fate::Ignored(why) => {
                warnings.push(format!("Flag --{name} is ignored: {why}"));
                if old.takes_value && value.is_none() {
                    args.next();
                }
            }
        }
    }
    Ok((out, warnings))
}

fn exit_of(error: &clap::Error, command: &clap::Command) -> Exit {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Exit { code: 0, message: error.to_string() }
        }
        ErrorKind::UnknownArgument => {
            let given = context(ContextKind::InvalidArg);
            let name = given.trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
            let known = command.get_arguments().filter_map(clap::Arg::get_long);
            let hint = crate::suggest::closest(&name, known).map(|n| format!(", did you mean --{n}?"));
            let what = if given.starts_with('-') { "unknown flag" } else { "unknown argument" };
            Exit { code: 1, message: format!("{what}: {given}{}", hint.unwrap_or_default()) }
        }
        _ => {
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            Exit { code: 1, message: first.trim_start_matches("error: ").trim_end().to_owned() }
        }
    }
}

/// `key=value,key=value`; upstream's `mapStringString`. Written once; a repeated flag replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValueMap(pub BTreeMap<String, String>);

impl FromStr for KeyValueMap {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
                None => Err(format!("{pair:?} is not of the form key=value")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl KeyValueMap {
    /// The values as booleans, for `--feature-gates` and `--runtime-config`.
    pub fn bools(&self) -> Result<BTreeMap<String, bool>, String> {
        self.0.iter().map(|(k, v)| go_bool(v).map(|b| (k.clone(), b)).map_err(|e| format!("{k}: {e}"))).collect()
    }
}

/// Comma-separated texts in one value; a repeated flag replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommaList(pub Vec<String>);

impl FromStr for CommaList {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()))
    }
}

impl std::ops::Deref for CommaList {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// An address with a port (`0.0.0.0:10256`), upstream's `ipport`; empty means "do not listen".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPort(pub Option<std::net::SocketAddr>);

impl FromStr for HostPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        crate::net::parse_ip_port(text, 0).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Flags {
        #[arg(long)]
        plain: bool,
        #[arg(long, default_value_t = true)]
        on: bool,
        #[arg(long)]
        maybe: Option<bool>,
        #[arg(long, default_value_t = -999)]
        oom_score_adj: i32,
        #[arg(long, value_delimiter = ',')]
        cidrs: Vec<String>,
        #[arg(long, default_value = "15m0s")]
        sync: GoDuration,
        #[arg(short, long, default_value_t = 0)]
        v: u8,
        #[arg(long, default_value = "")]
        gates: KeyValueMap,
    }

    const LEGACY: &[LegacyFlag] = &[
        LegacyFlag { name: "port", takes_value: true, fate: Fate::Ignored("use --secure-port") },
        LegacyFlag { name: "insecure-port", takes_value: true, fate: Fate::Refused("no plain HTTP") },
        LegacyFlag { name: "old", takes_value: true, fate: Fate::Renamed("sync") },
    ];

    fn run(args: &[&str]) -> Result<(Flags, Vec<String>), Exit> {
        parse_from("demo", LEGACY, args.iter().map(OsString::from))
    }

    #[test]
    fn reads_as_pflag_does() {
        let (f, _) = run(&[]).unwrap();
        assert!(!f.plain && f.on && f.maybe.is_none() && f.oom_score_adj == -999 && f.v == 0);
        let (f, _) = run(&["--plain", "--on=false", "--maybe=0", "--oom_score_adj", "-5", "-v=4"]).unwrap();
        assert!(f.plain && !f.on && f.maybe == Some(false) && f.oom_score_adj == -5 && f.v == 4);
        let (f, _) = run(&["--cidrs=a,b", "--cidrs", "c", "--sync=1s", "--sync=2s", "--gates=A=true,B=false"]).unwrap();
        assert_eq!(f.cidrs, ["a", "b", "c"]);
        assert_eq!(f.sync, GoDuration::from_secs(2));
        assert_eq!(f.gates.bools().unwrap().len(), 2);
    }

    #[test]
    fn explains_what_it_refuses() {
        assert_eq!(
            run(&["--plane"]).unwrap_err(),
            Exit { code: 1, message: "unknown flag: --plane, did you mean --plain?".into() }
        );
        assert!(run(&["--sync=soon"]).unwrap_err().message.contains("invalid duration"));
        assert!(run(&["--on=perhaps"]).unwrap_err().message.contains("neither true nor false"));
        assert_eq!(run(&["--version"]).unwrap_err(), Exit { code: 0, message: "Kubernetes v1.36.3".into() });
        assert_eq!(run(&["--help"]).unwrap_err().code, 0);
    }

    #[test]
    fn removed_flags() {
        let (_, warnings) = run(&["--port", "0", "--logtostderr=true", "--plain"]).unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(run(&["--insecure-port=8080"]).unwrap_err().message.contains("no plain HTTP"));
        let (f, _) = run(&["--old=7s"]).unwrap();
        assert_eq!(f.sync, GoDuration::from_secs(7));
    }
}
