//! A hostile server on a real socket: whatever it sends comes through the same connection, reader and bounds as in an agent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use pullet::limits;
use pullet::link::{Bearer, Endpoint, Fault, JobSource as _, LongPoll};
use pullet::metrics::Meter;
use pullet::net::renewal::TlsFiles;
use pullet::net::{PlainHttp, Profile, ProxySetting, Tls};
use pullet::protocol::{ClusterId, JobId};

/// Says to each connection what is held here.
struct Server {
    words: Arc<Mutex<Vec<u8>>>,
    endpoint: Endpoint,
    profile: Profile,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let words: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&words);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 2048];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(&said.lock().unwrap_or_else(PoisonError::into_inner));
            // The rest of the request is read, or what was said would be lost with the connection.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
            while stream.read(&mut head).is_ok_and(|count| count > 0) {}
        }
    });
    let plain_http = PlainHttp::Loopback;
    let profile = Profile {
        tls: Tls::open(TlsFiles::default()).unwrap(),
        proxy: ProxySetting::Direct,
        plain_http,
        meter: Meter::default(),
    };
    Server { words, endpoint: Endpoint::parse(&format!("http://{address}"), plain_http).unwrap(), profile }
});

pub(crate) fn http(data: &[u8]) {
    let Some((call, words)) = data.split_first() else { return };
    words.clone_into(&mut SERVER.words.lock().unwrap_or_else(PoisonError::into_inner));
    let bearer = Bearer::new("a-bearer-of-the-least-length", None).unwrap();
    let link =
        LongPoll::new(SERVER.endpoint.clone(), ClusterId::parse("c1").unwrap(), bearer.clone(), SERVER.profile.clone());
    let fault = match call % 4 {
        0 => link.poll(Duration::from_secs(1)).map(|answer| {
            assert!(answer.jobs.len() <= limits::ANSWER_BYTES / limits::JOB_OVERHEAD);
        }),
        1 => link.ack(&JobId::parse("j").unwrap()).map(drop),
        2 => link.rotate(&bearer, None, None).map(|issued| {
            assert!(issued.ca_bundle.is_none_or(|pem| pem.len() as u64 <= limits::SMALL_BODY_BYTES));
        }),
        _ => link.probe(&bearer),
    };
    if let Err(fault) = fault {
        tell(&fault);
    }
    link.shut();
}

/// What is said of it is a line for a log, however long and whatever it was.
fn tell(fault: &Fault) {
    let (cause, detail) = fault.causes();
    for text in [fault.to_string(), cause, detail] {
        assert!(text.len() < 2_000 && !text.chars().any(char::is_control), "{text:?}");
    }
    assert!(fault.retry_after().is_none_or(|pause| pause <= limits::RETRY_AFTER_MAX));
}
