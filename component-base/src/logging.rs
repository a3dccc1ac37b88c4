//! Log lines in klog's form: `I1121 09:04:57.123456    1234 file.rs:12] "message" key="value"`, or upstream's JSON form.
//!
//! Level: `-v=0` shows info and above, from `-v=4` also debug, from `-v=8` also trace; libraries speak from `-v=10` on. Logs go to standard error.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// The logging flags of every daemon; flatten it into the daemon's clap struct.
#[derive(Clone, Debug, clap::Args)]
pub struct LoggingFlags {
    /// number for the log level verbosity
    #[arg(short = 'v', long = "v", default_value_t = 0, value_name = "Level")]
    pub verbosity: u8,
    /// comma-separated list of pattern=N settings for file-filtered logging; accepted, the level of -v applies everywhere
    #[arg(long, default_value = "", value_name = "pattern=N,...")]
    pub vmodule: String,
    /// Sets the log format. Permitted formats: "json", "text".
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub logging_format: String,
    /// Maximum number of seconds between log flushes; lines are written at once, so it has no effect
    #[arg(long, default_value = "5s")]
    pub log_flush_frequency: crate::duration::GoDuration,
    /// Accepted for compatibility; JSON lines are not buffered
    #[arg(long, default_value = "0")]
    pub log_json_info_buffer_size: String,
    /// Accepted for compatibility; all lines go to standard error
    #[arg(long)]
    pub log_json_split_stream: bool,
    /// Accepted for compatibility; text lines are not buffered
    #[arg(long, default_value = "0")]
    pub log_text_info_buffer_size: String,
    /// Accepted for compatibility; all lines go to standard error
    #[arg(long)]
    pub log_text_split_stream: bool,
}

impl Default for LoggingFlags {
    fn default() -> Self {
        Self {
            verbosity: 0,
            vmodule: String::new(),
            logging_format: "text".to_owned(),
            log_flush_frequency: crate::duration::GoDuration::from_secs(5),
            log_json_info_buffer_size: "0".to_owned(),
            log_json_split_stream: false,
            log_text_info_buffer_size: "0".to_owned(),
            log_text_split_stream: false,
        }
    }
}

/// Installs the process's logger. A second call is without effect, so that tests may call it.
pub fn init(flags: &LoggingFlags) {
    let level = match flags.verbosity {
        0..=3 => LevelFilter::INFO,
        4..=7 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Frames and handshakes of the libraries would bury the daemon's own words.
    let libraries = if flags.verbosity >= 10 { LevelFilter::TRACE } else { LevelFilter::WARN };
    let targets = LIBRARIES.iter().fold(Targets::new().with_default(level), |t, name| t.with_target(*name, libraries));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(targets);
    // An error means that a logger is installed already.
    let _ = if flags.logging_format == "json" {
        tracing::subscriber::set_global_default(registry.with(layer.event_format(Json)))
    } else {
        tracing::subscriber::set_global_default(registry.with(layer.event_format(Klog { pid: std::process::id() })))
    };
}

/// Targets that are heard only from `-v=10` on.
const LIBRARIES: [&str; 7] = ["h2", "hyper", "hyper_util", "rustls", "tokio_rustls", "tonic", "tower"];

struct Klog {
    pid: u32,
}

fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let letter = match *meta.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let now = jiff::Zoned::now();
        let mut fields = TextFields::default();
        event.record(&mut fields);
        writeln!(
            out,
            "{letter}{} {:>7} {}:{}] {:?}{}",
            now.strftime("%m%d %H:%M:%S%.6f"),
            self.pid,
            basename(meta.file().unwrap_or("?")),
            meta.line().unwrap_or(0),
            fields.message,
            fields.rest
        )
    }
}

#[derive(Default)]
struct TextFields {
    message: String,
    rest: String,
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(self.rest, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let text = format!("{value:?}");
            // Display values of tracing's `%` arrive here unquoted; klog quotes texts and leaves numbers and booleans.
            let bare =
                text.starts_with(['"', '[', '{']) || text.parse::<f64>().is_ok() || text == "true" || text == "false";
            if bare {
                write!(self.rest, " {}={text}", field.name())
            } else {
                write!(self.rest, " {}={text:?}", field.name())
            }
        };
    }
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = JsonFields::default();
        event.record(&mut fields);
        let mut line = serde_json::Map::new();
        let milliseconds = jiff::Timestamp::now().as_nanosecond() as f64 / 1e6;
        line.insert("ts".to_owned(), milliseconds.into());
        line.insert(
            "caller".to_owned(),
            format!("{}:{}", basename(meta.file().unwrap_or("?")), meta.line().unwrap_or(0)).into(),
        );
        line.insert("msg".to_owned(), fields.message.into());
        match *meta.level() {
            Level::ERROR => {}
            Level::DEBUG => drop(line.insert("v".to_owned(), 4.into())),
            Level::TRACE => drop(line.insert("v".to_owned(), 8.into())),
            _ => drop(line.insert("v".to_owned(), 0.into())),
        }
        line.extend(fields.rest);
        writeln!(out, "{}", serde_json::Value::Object(line))
    }
}

#[derive(Default)]
struct JsonFields {
    message: String,
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Visit for JsonFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.rest.insert(field.name().to_owned(), value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn text_line() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(Klog { pid: 42 }).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(node = "n1", count = 3, error = %"no route", "cannot reach");
        });
        let line = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(line.starts_with('W') && line.contains("      42 logging.rs:"), "{line}");
        assert!(line.ends_with("] \"cannot reach\" node=\"n1\" count=3 error=\"no route\"\n"), "{line}");
    }
}
