//! As much of HTTP as a scraper and a probe need: one request on a connection, and its answer.
//!
//! Whoever is on this machine may ask, and is not trusted: a head has [`limits::METRICS_HEAD_BYTES`], an answer is over
//! within [`limits::METRICS_PATIENCE`], and who dawdles gives way to who comes after
//! ([`limits::METRICS_CONNECTIONS`], [`limits::METRICS_GRACE`]). A body is not read.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info};

use super::{Address, Monitor};
use crate::limits;
use crate::task;

/// Answers whoever asks there. Never ends. An address that cannot be used is said once and tried again: the agent does its
/// work without.
pub async fn serve(address: Address, monitor: Arc<Monitor>) {
    let mut has_failed = false;
    loop {
        match Listener::open(&address).await {
            Ok(listener) => {
                info!(address = listener.describe(), "metrics and probes are answered: /metrics, /healthz, /readyz");
                accept(&listener, &monitor).await;
            }
            Err(_) if has_failed => {}
            Err(error) => {
                has_failed = true;
                let address = address.to_string();
                error!(address, %error, "no metrics and no probes are answered: the address cannot be used; it is tried again");
            }
        }
        sleep(limits::METRICS_RETRY).await;
    }
}

/// Where connections come from.
enum Listener {
    Port(TcpListener),
    Socket(UnixListener, PathBuf),
}

impl Listener {
    async fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Port(address) => TcpListener::bind(address).await.map(Self::Port),
            Address::Socket(path) => {
                remove_left_behind(path)?;
                let this = Self::Socket(UnixListener::bind(path)?, path.clone());
                // Whoever is let in belongs to the group of the agent.
                fs::set_permissions(path, Permissions::from_mode(0o660))?;
                Ok(this)
            }
        }
    }

    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Port(listener) => listener.accept().await.map(|(stream, _)| Connection::Port(stream)),
            Self::Socket(listener, _) => listener.accept().await.map(|(stream, _)| Connection::Socket(stream)),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Port(listener) => listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string()),
            Self::Socket(_, path) => Address::Socket(path.clone()).to_string(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Socket(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// Somebody who asks.
enum Connection {
    Port(TcpStream),
    Socket(UnixStream),
}

impl Connection {
    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Port(stream) => stream.readable().await?,
                Self::Socket(stream) => stream.readable().await?,
            }
            match self.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// What is there already.
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Port(stream) => stream.try_read(into),
            Self::Socket(stream) => stream.try_read(into),
        }
    }

    async fn write_all(&self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            let written = match self {
                Self::Port(stream) => {
                    stream.writable().await?;
                    stream.try_write(text)
                }
                Self::Socket(stream) => {
                    stream.writable().await?;
                    stream.try_write(text)
                }
            };
            match written {
                Ok(count) => text = text.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket that nobody listens to was left by an agent that ended without being told to. Anything else stays.
fn remove_left_behind(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let is_dead = || {
        std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_dead() { fs::remove_file(path) } else { Ok(()) }
}

/// Never ends.
async fn accept(listener: &Listener, monitor: &Arc<Monitor>) -> ! {
    let mut open: VecDeque<(Instant, JoinHandle<()>)> = VecDeque::new();
    loop {
        // One that cannot be taken is gone already, or no more files can be open.
        let Ok(connection) = listener.accept().await else {
            sleep(limits::METRICS_GRACE).await;
            continue;
        };
        open.retain(|(_, answering)| !answering.is_finished());
        if open.len() >= limits::METRICS_CONNECTIONS
            && let Some((since, mut oldest)) = open.pop_front()
            && timeout_at(since + limits::METRICS_GRACE, &mut oldest).await.is_err()
        {
            oldest.abort();
        }
        let monitor = Arc::clone(monitor);
        open.push_back((Instant::now(), task::spawn(answer(connection, monitor))));
    }
}

async fn answer(connection: Connection, monitor: Arc<Monitor>) {
    let answering = async {
        let mut head = vec![0; limits::METRICS_HEAD_BYTES];
        let answer = respond(read_head(&connection, &mut head).await?, &monitor);
        connection.write_all(answer.as_bytes()).await
    };
    // Whoever went away or took too long has no answer, and nobody else needs to know.
    let _ = timeout(limits::METRICS_PATIENCE, answering).await;
}

/// Reads up to the empty line that ends a head; none = it is not within the buffer.
async fn read_head<'a>(connection: &Connection, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        let count = connection.read(room).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        if buffer.get(..filled).is_some_and(ends) {
            return Ok(buffer.get(..filled));
        }
    }
    // What is left unread may take the answer with it when the connection is closed.
    let _ = connection.try_read(buffer);
    Ok(None)
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// The whole answer to a head, or to one that is too long.
fn respond(head: Option<&[u8]>, monitor: &Monitor) -> String {
    let Some(head) = head else {
        return plain("431 Request Header Fields Too Large", "the head of the request is too long");
    };
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return plain("400 Bad Request", "this is no request of HTTP/1.1");
    };
    if !matches!(method, "GET" | "HEAD") {
        return plain("405 Method Not Allowed", "only GET and HEAD are answered");
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let mut answer = match path {
        "/metrics" => page("200 OK", &monitor.metrics()),
        "/healthz" => verdict(monitor.unhealthy()),
        "/readyz" => verdict(monitor.unready()),
        _ => plain("404 Not Found", "there are /metrics, /healthz and /readyz"),
    };
    if method == "HEAD"
        && let Some(body) = answer.find("\r\n\r\n")
    {
        answer.truncate(body + 4);
    }
    answer
}

fn verdict(fault: Option<String>) -> String {
    fault.map_or_else(|| plain("200 OK", "ok"), |fault| plain("503 Service Unavailable", &fault))
}

/// One line, whatever a server said that is in it.
fn plain(status: &str, line: &str) -> String {
    let mut line = line.replace(char::is_control, " ");
    line.push('\n');
    page(status, &line)
}

fn page(status: &str, body: &str) -> String {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n{allow}\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::{Monitor, ends, remove_left_behind, respond};
    use std::os::unix::net::UnixListener;

    fn asked(head: &str) -> String {
        respond(Some(head.as_bytes()), &Monitor::default())
    }

    #[test]
    fn each_request_has_the_answer_it_deserves() {
        for (head, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
            ("GET /metrics?format=text HTTP/1.0\r\n\r\n", "200 OK"),
            ("GET /healthz HTTP/1.1\n\n", "200 OK"),
            ("GET /readyz HTTP/1.1\r\n\r\n", "503 Service Unavailable"),
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET http://127.0.0.1/metrics HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("get /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("GET /metrics HTTP/2\r\n\r\n", "400 Bad Request"),
            ("GET /metrics\r\n\r\n", "400 Bad Request"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
            ("GET /metrics HTTP/1.1 \r\n\r\n", "400 Bad Request"),
            ("\r\n\r\n", "400 Bad Request"),
        ] {
            let answer = asked(head);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head:?}: {answer}");
            let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(headers.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{answer}");
            assert!(body.ends_with('\n') && (head.contains("/metrics") || body.lines().count() == 1), "{answer}");
            assert_eq!(headers.contains("Allow: GET, HEAD"), status.starts_with("405"));
        }
        assert!(respond(None, &Monitor::default()).starts_with("HTTP/1.1 431 "));
        assert!(respond(Some(&[0xff, 0xfe, b'\n', b'\n']), &Monitor::default()).starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn head_is_answered_with_the_head_alone() {
        let (get, head) = (asked("GET /healthz HTTP/1.1\r\n\r\n"), asked("HEAD /healthz HTTP/1.1\r\n\r\n"));
        assert_eq!(head, get.strip_suffix("ok\n").unwrap());
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for (head, is_whole) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\n\n", true),
            ("GET / HTTP/1.1\r\n\r\nbody", true),
            ("GET / HTTP/1.1\r\n\r", false),
            ("GET / HTTP/1.1\n", false),
            ("", false),
        ] {
            assert_eq!(ends(head.as_bytes()), is_whole, "{head:?}");
        }
    }

    #[test]
    fn only_a_socket_that_nobody_listens_to_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, file) = (directory.path().join("socket"), directory.path().join("file"));
        std::fs::write(&file, "kept").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        for path in [&socket, &file] {
            remove_left_behind(path).unwrap();
            assert!(path.exists());
        }
        drop(listener);
        assert!(socket.exists());
        remove_left_behind(&socket).unwrap();
        assert!(!socket.exists());
        remove_left_behind(&socket).unwrap();
    }
}
