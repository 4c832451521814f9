//! What a person is asked on a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::limits;

/// Reads a line without showing it. The shell is asked because it also shows again what is typed when somebody ends us here.
const UNSEEN: &str = "trap 'stty echo; exit 1' INT TERM; stty -echo; IFS= read -r line; stty echo; printf %s \"$line\"";

/// One line; nothing where nobody sits there or nothing was typed. What is secret is not shown.
pub(super) fn ask(question: &str, is_secret: bool) -> Option<Zeroizing<String>> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let _ = write!(io::stdout(), "{question}");
    let _ = io::stdout().flush();
    let mut line = Zeroizing::new(String::with_capacity(256));
    if is_secret {
        let read = Command::new("sh").args(["-c", UNSEEN]).stdin(Stdio::inherit()).stderr(Stdio::null()).output();
        line.push_str(std::str::from_utf8(&Zeroizing::new(read.ok()?.stdout)).ok()?);
        let _ = writeln!(io::stdout());
    } else {
        io::stdin().lock().take(limits::TYPED_BYTES).read_line(&mut line).ok()?;
    }
    let text = Zeroizing::new(line.trim().to_owned());
    Some(text).filter(|text| !text.is_empty())
}
