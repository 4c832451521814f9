//! The house rules that a compiler does not know, checked on the text of src/.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From top to bottom; a module may use those of the rows below it.
const LAYERS: [&[&str]; 4] = [
    &["agent", "args", "cli", "config", "doctor", "logging", "monitor", "setup", "status", "webhook"],
    &["job", "journal", "link", "target"],
    &["net", "protocol", "resources", "trust"],
    &["clock", "count", "json", "limits", "metrics", "secret", "shutdown", "supervisor", "task", "texts"],
];

/// What may be used within a row, and never the other way round: a job is done on a target, recorded in the journal and
/// heard of through the traits of the link; what the link posts lies in the journal; trust judges what the protocol
/// defines; a resource holds what the protocol defines, and its policy becomes one of trust.
const SIDEWAYS: [(&str, &str); 13] = [
    ("clock", "json"),
    ("clock", "limits"),
    ("job", "journal"),
    ("job", "link"),
    ("job", "target"),
    ("link", "journal"),
    ("metrics", "clock"),
    ("resources", "protocol"),
    ("resources", "trust"),
    ("shutdown", "task"),
    ("supervisor", "limits"),
    ("supervisor", "shutdown"),
    ("trust", "protocol"),
];

/// Where bytes from outside are handled, and a panic would be somebody else's to cause.
const NO_PANIC: [&str; 5] = ["journal", "link", "protocol", "resources", "trust"];

const PANICS: [&str; 6] = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];

const FILE_LINES: usize = 600;

const ATOMICS_OF_64_BITS: [&str; 2] = ["AtomicI64", "AtomicU64"];

/// What the feature `webhook` brings, and the room that knows it.
const OF_THE_WEBHOOK: [(&str, &str); 5] = [
    ("http_body_util", "src/webhook"),
    ("hyper", "src/webhook"),
    ("hyper_util", "src/webhook"),
    ("rcgen", "src/net/served.rs"),
    ("tokio_rustls", "src/webhook"),
];

#[test]
fn layers_point_one_way() {
    let mut wrong = Vec::new();
    for source in Source::all() {
        let Some(module) = source.module() else { continue };
        for used in source.modules_used() {
            if !may_use(&module, &used) {
                wrong.push(format!("{} uses crate::{used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the layers {LAYERS:?}:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<String> = Source::all().iter().filter_map(Source::module).collect();
    assert!(modules.len() > 5, "{modules:?}");
    for module in modules {
        assert!(layer(&module).is_some(), "src/{module} is in none of the layers of tests/it/layers.rs");
    }
}

#[test]
fn what_one_feature_brings_is_known_in_one_room() {
    let uses = |code: &str, name: &str| {
        let path = format!("{name}::");
        code.match_indices(&path).any(|(at, _)| !code[..at].ends_with(|c| is_name(c) || c == ':'))
    };
    for (name, room) in OF_THE_WEBHOOK {
        let users: Vec<PathBuf> =
            Source::all().into_iter().filter(|source| uses(&source.code(), name)).map(|source| source.path).collect();
        assert!(!users.is_empty() && users.iter().all(|path| path.starts_with(room)), "{name}: {users:?}");
    }
}

#[test]
fn no_file_is_longer_than_a_few_hundred_lines() {
    for source in Source::all() {
        let lines = source.text.lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines: give it rooms", source.path.display());
    }
}

#[test]
fn nothing_from_outside_meets_a_panic() {
    let mut wrong = Vec::new();
    for source in Source::all() {
        if source.module().is_some_and(|module| NO_PANIC.contains(&module.as_str())) {
            for (number, line) in source.code().lines().enumerate() {
                // A parser may have an `expect` of its own, which returns an error.
                let line = line.replace("self.expect(", "");
                if PANICS.iter().any(|panic| line.contains(panic)) {
                    wrong.push(format!("{}:{}: {}", source.path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "what the network or the disk can cause must be an error:\n{}", wrong.join("\n"));
}

/// Not every processor of 32 bits has them, so one module does, and says what is so elsewhere.
#[test]
fn no_atomic_of_64_bits_is_taken_for_granted() {
    let naming = |source: &&Source| ATOMICS_OF_64_BITS.iter().any(|name| source.code().contains(name));
    let sources = Source::all();
    let found: Vec<&Path> = sources.iter().filter(naming).map(|source| source.path.as_path()).collect();
    assert_eq!(found, [Path::new("src/count.rs")], "use crate::count::Count");
    let text = &sources.iter().find(|source| source.path == found[0]).unwrap().text;
    assert!(text.contains("cfg(not(target_has_atomic = \"64\"))"), "it has another way");
}

/// The checks above pass when they see nothing, so here is what they must see.
#[test]
fn what_breaks_a_rule_is_seen() {
    let source = Source {
        path: PathBuf::from("src/net/tls.rs"),
        text: r##"
            //! See crate::agent.
            use crate::{job::Job, limits::{A, B}, self_made as link};
            use super::body; /* crate::config /* nested */ crate::config */
            fn f<'a>(x: &'a str) -> char { let _ = ("crate::cli \" crate::cli", r#"crate::cli "# ); '"' }
            fn g() { crate::target::Target::new(super::super::journal::Ring::new()).unwrap() }
            fn h() -> std::io::Result<super::proxy::A> { crate :: clock :: now() }
            #[cfg(test)]
            mod tests { use crate::args; fn t() { panic!("}") } mod inner {} }
            fn i() { crate::secret::x() }
        "##
        .to_owned(),
    };
    let used = source.modules_used();
    let expected = ["clock", "job", "journal", "limits", "secret", "self_made", "target"];
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    let code = source.code();
    assert_eq!(PANICS.iter().filter(|panic| code.contains(*panic)).collect::<Vec<_>>(), [&".unwrap()"]);
    assert_eq!(code.lines().count(), source.text.lines().count());
    assert_eq!(source.module().as_deref(), Some("net"));
    assert!(may_use("net", "limits") && may_use("agent", "cli") && may_use("job", "target"));
    assert!(!may_use("net", "job") && !may_use("target", "job") && !may_use("link", "config"));
    assert!(SIDEWAYS.iter().all(|(from, to)| !may_use(to, from)));
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_use(module: &str, used: &str) -> bool {
    let (Some(from), Some(to)) = (layer(module), layer(used)) else {
        // What is no module of ours is an item of the crate's root; a module without a layer fails by itself.
        return true;
    };
    module == used || from < to || from == 0 && to == 0 || SIDEWAYS.contains(&(module, used))
}

struct Source {
    /// From the crate's directory: `src/net/tls.rs`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = Vec::new();
        let mut rooms = vec![root.join("src")];
        while let Some(room) = rooms.pop() {
            for entry in fs::read_dir(room).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    rooms.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    sources.push(Self { path: path.strip_prefix(root).unwrap().to_owned(), text });
                }
            }
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    /// The names of the modules down to this file: `["net", "tls"]`; none for lib.rs and main.rs.
    fn modules(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.path.with_extension("").iter().skip(1).map(|name| name.to_str().unwrap().to_owned()).collect();
        if names.last().is_some_and(|name| name == "mod")
            || matches!(self.path.to_str(), Some("src/lib.rs" | "src/main.rs"))
        {
            names.pop();
        }
        names
    }

    fn module(&self) -> Option<String> {
        self.modules().into_iter().next()
    }

    /// The modules at the crate's root that are named in paths, tests left out.
    fn modules_used(&self) -> BTreeSet<String> {
        let code: String = self.code().split_whitespace().collect::<Vec<_>>().join(" ").replace(" :: ", "::");
        let root = format!("{}::", vec!["super"; self.modules().len()].join("::"));
        let mut used = BTreeSet::new();
        for prefix in ["crate::", root.as_str()] {
            for (at, _) in code.match_indices(prefix) {
                let is_whole = code[..at].chars().next_back().is_none_or(|c| !is_name(c) && c != ':');
                if is_whole {
                    used.extend(first_names(&code[at + prefix.len()..]));
                }
            }
        }
        used
    }

    /// The text without comments, what stands in quotes, and what is built for tests only; line for line.
    fn code(&self) -> String {
        let mut code = blank(&self.text);
        if code.contains("#![cfg(test)]") {
            return String::new();
        }
        while let Some(at) = code.find("#[cfg(test)]") {
            let end = end_of_item(&code[at..]).map_or(code.len(), |length| at + length);
            let lines = "\n".repeat(code[at..end].matches('\n').count());
            code.replace_range(at..end, &lines);
        }
        code
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first name of a path, or of each path of a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| is_name(*c)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = vec![name(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Where the item that begins here ends: at its semicolon, or at the brace that closes its body.
fn end_of_item(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, ';' | '}') {
            return Some(at + 1);
        }
    }
    None
}

/// Takes out comments and the insides of string and character literals, and keeps the lines.
fn blank(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if raw_string(rest).is_some() && !kept.trim_end_matches('b').ends_with(is_name) => {
                raw_string(rest).unwrap()
            }
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            kept.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            kept.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
        }
    }
    kept
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - body.len() + body.find(&close).map_or(body.len(), |at| at + close.len()))
}

/// A character literal, as opposed to a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        return text[3..].find('\'').map(|at| 3 + at + 1);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}
