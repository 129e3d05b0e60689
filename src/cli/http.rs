//! Serves two texts over HTTP: the metrics, in either format, to clients that may be slow or hostile.
//!
//! Requests are parsed by `httparse`. Servers such as `tiny_http` have no limits on time and connections, which is most
//! of what is here: a connection gets one answer, and has a few seconds and kilobytes for its request. Reading the
//! target never waits for a client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::report::open_metrics::MetricFormat;

/// Connections at a time; others are closed at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a client may take for its request, and again for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head. Those of Prometheus take 500.
const HEAD_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Stack of a connection's thread, bytes.
const STACK: usize = 256 << 10;
/// How long to wait if no connection can be accepted, as without free file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The metrics in both formats.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    pub prometheus: Arc<str>,
    pub open_metrics: Arc<str>,
}

/// A server of metrics.
pub struct MetricsServer {
    listener: TcpListener,
    pages: Arc<Mutex<Pages>>,
}

impl MetricsServer {
    /// Takes the address. Connections wait until [`MetricsServer::start`].
    pub fn bind(address: SocketAddr) -> io::Result<MetricsServer> {
        Ok(MetricsServer { listener: TcpListener::bind(address)?, pages: Arc::default() })
    }

    /// The address, with the port that the kernel chose for port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// From now on these are served.
    pub fn publish(&self, pages: Pages) {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    /// Answers clients in threads of its own, until the program ends.
    pub fn start(&self) -> io::Result<()> {
        let (listener, pages) = (self.listener.try_clone()?, Arc::clone(&self.pages));
        let open = Arc::new(AtomicUsize::new(0));
        let accept = move || loop {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let slot = ConnectionSlot(Arc::clone(&open));
            if slot.0.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                continue;
            }
            let pages = Arc::clone(&pages);
            let answer = move || {
                let _slot = slot;
                // A client that is gone or too slow gets no answer.
                if let Err(error) = answer(&stream, &pages) {
                    log::debug!("a client was not answered: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("http".to_owned()).stack_size(STACK).spawn(answer) {
                log::debug!("no thread for a client: {error}");
            }
        };
        std::thread::Builder::new().name("accept".to_owned()).stack_size(STACK).spawn(accept).map(drop)
    }
}

/// One of the connections that are open.
struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a request and answers it.
fn answer(mut stream: &TcpStream, pages: &Mutex<Pages>) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let request = loop {
        match parse(&head) {
            Parsed::Request(request) => break request,
            Parsed::Garbage => break HttpRequest::bad(),
            Parsed::More if head.len() >= HEAD_MAX => break HttpRequest::bad(),
            Parsed::More => {}
        }
        let mut chunk = [0; 1024];
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&chunk[..length]),
        }
    };
    let pages = pages.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let response = response(&request, &pages);
    let until = Instant::now() + PATIENCE;
    let mut rest = response.as_bytes();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => rest = &rest[length..],
        }
    }
    stream.shutdown(Shutdown::Write)?;
    drain(stream)
}

/// Reads what a client still sends, for a moment: to close while something is unread would discard the answer as well.
fn drain(mut stream: &TcpStream) -> io::Result<()> {
    const READS: usize = 64;
    let until = Instant::now() + Duration::from_secs(1);
    let mut chunk = [0; 1024];
    for _ in 0..READS {
        stream.set_read_timeout(Some(left(until)?))?;
        if stream.read(&mut chunk)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Time left, which is more than none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What matters of a request.
#[derive(Debug, PartialEq, Eq)]
struct HttpRequest {
    /// GET, HEAD or another one; empty for what is no request.
    method: String,
    path: String,
    format: MetricFormat,
}

impl HttpRequest {
    fn bad() -> HttpRequest {
        HttpRequest { method: String::new(), path: String::new(), format: MetricFormat::Prometheus }
    }
}

enum Parsed {
    More,
    Garbage,
    Request(HttpRequest),
}

fn parse(head: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => Parsed::More,
        Err(_) => Parsed::Garbage,
        Ok(httparse::Status::Complete(_)) => {
            let mut accepted = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
            let is_open = accepted.any(|header| {
                String::from_utf8_lossy(header.value).to_ascii_lowercase().contains("application/openmetrics-text")
            });
            let path = request.path.unwrap_or_default();
            Parsed::Request(HttpRequest {
                method: request.method.unwrap_or_default().to_owned(),
                path: path.split('?').next().unwrap_or_default().to_owned(),
                format: if is_open { MetricFormat::OpenMetrics } else { MetricFormat::Prometheus },
            })
        }
    }
}

fn response(request: &HttpRequest, pages: &Pages) -> String {
    let plain = MetricFormat::Prometheus.media_type();
    let (status, media_type, body): (&str, &str, &str) = match (request.method.as_str(), request.path.as_str()) {
        ("", _) => ("400 Bad Request", plain, "not a request that is understood here\n"),
        ("GET" | "HEAD", "/metrics") => match request.format {
            MetricFormat::OpenMetrics => ("200 OK", request.format.media_type(), &pages.open_metrics),
            MetricFormat::Prometheus => ("200 OK", plain, &pages.prometheus),
        },
        ("GET" | "HEAD", "/") => ("200 OK", plain, "heapsonde: the metrics are at /metrics\n"),
        ("GET" | "HEAD", _) => ("404 Not Found", plain, "the metrics are at /metrics\n"),
        _ => ("405 Method Not Allowed", plain, "only GET and HEAD\n"),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if request.method == "HEAD" { head } else { head + body }
}

/// An address to serve at: `127.0.0.1:9187`, `[::1]:9187`, `localhost:9187`; a bare port is one of this machine only.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let loopback = |port: &str| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let short = text.strip_prefix("localhost:").or(text.strip_prefix(':')).unwrap_or(text);
    let parsed = loopback(short).or_else(|| text.parse().ok());
    parsed.ok_or_else(|| format!("{text:?} is no address such as 127.0.0.1:9187"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_is_written_out_is_open_to_others() {
        for text in ["9187", ":9187", "localhost:9187", "127.0.0.1:9187", "[::1]:9187"] {
            assert!(address(text).is_ok_and(|address| address.ip().is_loopback() && address.port() == 9187), "{text}");
        }
        assert!(address("0.0.0.0:1").is_ok_and(|address| address.ip().is_unspecified()));
        for text in ["", ":", "x", "127.0.0.1", "example.com:80", "99999", "-1", "localhost", "[::1]"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn requests_are_answered_or_refused() {
        let pages = Pages { prometheus: "p".into(), open_metrics: "o".into() };
        let status = |head: &[u8]| match parse(head) {
            Parsed::More => "more".to_owned(),
            Parsed::Garbage => response(&HttpRequest::bad(), &pages),
            Parsed::Request(request) => response(&request, &pages),
        };
        assert!(status(b"GET /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\np"));
        let open = b"GET /metrics?x=1 HTTP/1.1\r\nACCEPT: application/OpenMetrics-text;version=1.0.0,*/*\r\n\r\n";
        assert!(status(open).ends_with("\r\n\r\no") && status(open).contains("version=1.0.0; charset=utf-8\r\n"));
        assert!(status(b"HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("Content-Length: 1\r\nConnection: close\r\n\r\n"));
        assert!(status(b"GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(status(b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(status(b"\x16\x03\x01\x00\xa5\x01\x00").starts_with("HTTP/1.1 400 "), "a client that speaks TLS");
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"), "more");
    }
}
