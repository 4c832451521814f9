//! A forward proxy that knows `CONNECT` and nothing else, as a clinic or a school has one.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest head of a request, in lines.
const HEAD_LINES: usize = 64;

/// How long a tunnel may be silent before its threads end. Longer than any poll is held.
const SILENCE: Duration = Duration::from_mins(6);

/// A proxy on a port of the loopback. It accepts nothing more once it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    known: Arc<Mutex<Known>>,
    accepts: Option<JoinHandle<()>>,
}

/// What a proxy is told, and what it saw.
#[derive(Clone, Debug, Default)]
struct Known {
    /// `Proxy-Authorization` that is asked for; none = anybody may pass.
    authorization: Option<String>,
    /// Status that every tunnel is refused with.
    refusal: Option<u16>,
    requests: Vec<String>,
    tunnels: Vec<String>,
    is_over: bool,
}

impl Proxy {
    /// Starts a proxy that lets everybody through.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let known: Arc<Mutex<Known>> = Arc::default();
        let its = Arc::clone(&known);
        let accepts = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if read(&its, |known| known.is_over) {
                    return;
                }
                let known = Arc::clone(&its);
                std::thread::spawn(move || serve(client, &known));
            }
        });
        Self { port, known, accepts: Some(accepts) }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks for this `Proxy-Authorization` from now on (407 without it): `Basic dXNlcjpwYXNz`.
    pub(crate) fn ask_for(&self, authorization: &str) {
        change(&self.known, |known| known.authorization = Some(authorization.to_owned()));
    }

    /// Refuses every tunnel with this status from now on; `None` lets them through again.
    pub(crate) fn refuse(&self, status: Option<u16>) {
        change(&self.known, |known| known.refusal = status);
    }

    /// First lines of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        read(&self.known, |known| known.requests.clone())
    }

    /// `host:port` of the tunnels that were opened so far.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        read(&self.known, |known| known.tunnels.clone())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        change(&self.known, |known| known.is_over = true);
        // Wakes the thread that accepts; nothing listens any more once it has ended.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.accepts.take().map(JoinHandle::join);
    }
}

fn serve(client: TcpStream, known: &Mutex<Known>) {
    // Whatever goes wrong here ends this one connection, which is what a client of a proxy sees.
    let _ = tunnel(client, known);
}

fn tunnel(mut client: TcpStream, known: &Mutex<Known>) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() || head.len() == HEAD_LINES {
            break;
        }
        head.push(line);
    }
    let request = head.first().cloned().unwrap_or_default();
    change(known, |known| known.requests.push(request.clone()));
    let told = read(known, Known::clone);
    let authorization = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    let mut words = request.split(' ');
    let (Some("CONNECT"), Some(to)) = (words.next(), words.next()) else { return answer(&mut client, 405) };
    if let Some(status) = told.refusal {
        return answer(&mut client, status);
    }
    if told.authorization.is_some() && told.authorization != authorization {
        return answer(&mut client, 407);
    }
    let Ok(server) = TcpStream::connect(to) else { return answer(&mut client, 502) };
    change(known, |known| known.tunnels.push(to.to_owned()));
    answer(&mut client, 200)?;
    let (mut back, mut to_client) = (server.try_clone()?, client);
    let there = std::thread::spawn(move || {
        let mut server = server;
        let _ = io::copy(&mut reader, &mut server);
        let _ = server.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut back, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = there.join();
    Ok(())
}

fn answer(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let more = match status {
        200 => "",
        407 => "Proxy-Authenticate: Basic realm=\"proxy\"\r\nContent-Length: 0\r\n",
        _ => "Content-Length: 0\r\n",
    };
    write!(client, "HTTP/1.1 {status} As told\r\n{more}\r\n")
}

fn read<T>(known: &Mutex<Known>, read: impl FnOnce(&Known) -> T) -> T {
    read(&known.lock().unwrap_or_else(PoisonError::into_inner))
}

fn change(known: &Mutex<Known>, change: impl FnOnce(&mut Known)) {
    change(&mut known.lock().unwrap_or_else(PoisonError::into_inner));
}
