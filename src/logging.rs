//! One line an event: for people on a terminal, as JSON otherwise.
//!
//! Only what this crate says is printed, at any level: libraries below may log what they send. Control
//! characters never get through: what a server said cannot move a cursor or forge a line.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;
use crate::protocol::Timestamp;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Format {
    /// Text on a terminal, JSON otherwise.
    #[must_use]
    pub fn for_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Prints what this crate says, from now on, to stderr. A second call changes nothing.
pub fn start(level: Level, format: Format) {
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).event_format(Ours(format)).finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Ours(Format);

impl<S, N> FormatEvent<S, N> for Ours
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        if !is_ours(metadata.target()) {
            return Ok(());
        }
        let mut fields = Fields { format: self.0, message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let time = Timestamp::from_unix_seconds(clock::unix_seconds());
        let level = metadata.level().as_str();
        match self.0 {
            Format::Text => writeln!(writer, "{time} {level:5} {}{}", fields.message, fields.rest),
            Format::Json => {
                let level = level.to_ascii_lowercase();
                let message = Quoted(&fields.message);
                writeln!(writer, r#"{{"time":"{time}","level":"{level}","message":{message}{}}}"#, fields.rest)
            }
        }
    }
}

fn is_ours(target: &str) -> bool {
    target == env!("CARGO_PKG_NAME") || target.starts_with(concat!(env!("CARGO_PKG_NAME"), "::"))
}

/// What an event carries, ready to be printed.
struct Fields {
    format: Format,
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str, is_text: bool) {
        // Writing to a string does not fail.
        let _ = match (self.format, field.name()) {
            (Format::Text, "message") => write!(self.message, "{}", Printable(value)),
            (Format::Json, "message") => {
                self.message.push_str(value);
                Ok(())
            }
            // An empty detail is none.
            (_, _) if value.is_empty() => Ok(()),
            (Format::Text, name) if is_text && value.contains(' ') => {
                write!(self.rest, " {name}={}", Quoted(value))
            }
            (Format::Text, name) => write!(self.rest, " {name}={}", Printable(value)),
            (Format::Json, name) if is_text => write!(self.rest, r#","{name}":{}"#, Quoted(value)),
            (Format::Json, name) => write!(self.rest, r#","{name}":{value}"#),
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string(), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string(), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, if value { "true" } else { "false" }, false);
    }
}

/// A text without control characters.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { f.write_char('\u{fffd}')? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Ours, is_ours};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: Format, say: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .event_format(Ours(format))
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_json_whatever_is_said() {
        let text = printed(Format::Json, || {
            tracing::warn!(
                error = "a \"b\" \\ \u{1b}[0m \u{85}\n",
                count = 3_u64,
                ok = true,
                empty = "",
                "it is {}",
                "so\t"
            );
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "it is so\t");
        assert_eq!(line["error"], "a \"b\" \\ \u{1b}[0m \u{85}\n");
        assert_eq!((&line["count"], &line["ok"]), (&3.into(), &true.into()));
        assert!(line.get("empty").is_none());
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_is_one_line_without_control_characters() {
        let text = printed(Format::Text, || tracing::info!(job = "j1", why = "a b", "x\n2026 FORGED\u{1b}[2J"));
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with(" INFO  x\u{fffd}2026 FORGED\u{fffd}[2J job=j1 why=\"a b\"\n"), "{text:?}");
    }

    #[test]
    fn what_libraries_say_is_not_printed() {
        let text = printed(Format::Text, || tracing::error!(target: "kube_client::client", "Bearer secret"));
        assert_eq!(text, "");
        assert!(is_ours("pullet") && is_ours("pullet::link") && !is_ours("pullet_other"));
    }
}
