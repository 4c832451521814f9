//! What stands between the agent and a well-behaved API server: a server that answers as it is told, over
//! TLS, and a TCP proxy that can be cut.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET`, …
    pub(crate) method: String,
    /// Path with query.
    pub(crate) path: String,
    /// The header of that name.
    pub(crate) authorization: Option<String>,
    /// All headers, as they came.
    pub(crate) headers: Vec<(String, String)>,
    /// What was sent with it.
    pub(crate) body: Vec<u8>,
}

/// The stream on which an answer is written.
pub(crate) type Out<'a> = &'a mut dyn Write;

/// A server that answers as `handler` says.
pub(crate) struct FakeApi {
    port: u16,
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeApi {
    /// `handler` writes one answer, and the connection ends when that fails.
    pub(crate) fn start(handler: impl Fn(&Asked, Out<'_>) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (config, handler) = (Arc::new(config), Arc::new(handler));
        let record = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, handler, record) = (Arc::clone(&config), Arc::clone(&handler), Arc::clone(&record));
                std::thread::spawn(move || {
                    let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                    let mut stream = BufReader::new(tls);
                    while let Some(asked) = read_request(&mut stream) {
                        record.lock().unwrap().push(asked.clone());
                        if handler(&asked, stream.get_mut()).and_then(|()| stream.get_mut().flush()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, directory, asked }
    }

    /// A kubeconfig for it, with a user in YAML's flow style.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        let path = self.directory.path().join("kubeconfig");
        let text = format!(
            "current-context: it\nclusters:\n- name: it\n  cluster: {{server: 'https://127.0.0.1:{}', \
             certificate-authority: ca.crt}}\ncontexts:\n- name: it\n  context: {{cluster: it, user: it}}\nusers:\n- \
             name: it\n  user: {user}\n",
            self.port
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Writes an answer with a length.
pub(crate) fn answer(out: Out<'_>, status: &str, body: &str) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Writes the head of an answer without a length.
pub(crate) fn chunked(out: Out<'_>) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    out.flush()
}

/// Writes one piece of it; an empty one is its end.
pub(crate) fn chunk(out: Out<'_>, data: &[u8]) -> std::io::Result<()> {
    write!(out, "{:x}\r\n", data.len())?;
    out.write_all(data)?;
    out.write_all(b"\r\n")?;
    out.flush()
}

fn read_request(stream: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut authorization, mut headers) = (0, None, Vec::new());
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { method, path, authorization, headers, body })
}

/// A TCP proxy on loopback.
pub(crate) struct Proxy {
    port: u16,
    is_up: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// To a port of this machine.
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(Vec::new()));
        let streams = Arc::clone(&open);
        let is_up = Arc::new(AtomicBool::new(true));
        let up = Arc::clone(&is_up);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !up.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                streams.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let pair = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(client, server));
                std::thread::spawn(move || copy(pair.1, pair.0));
            }
        });
        Self { port, is_up, open }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Lets new connections through, or ends them at once.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// Ends every connection that is open.
    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
