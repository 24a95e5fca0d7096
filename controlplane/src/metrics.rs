//! The OpenMetrics endpoint: `GET /metrics` over HTTP, from the same [`Document`] as `linegate status`.
//!
//! Nothing is counted for it: the workers' counters are read when somebody asks. No secret is in the document, so none
//! can be in the answer; peers are named by their public keys, and only as many as the settings allow.

mod families;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::status::Document;

pub use families::encode;

/// Connections that are served at a time; more are closed, so that none can hold up memory or `wg`.
pub const CONNECTIONS_MAX: usize = 8;

/// How long one connection may take, from its start to the end of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What OpenMetrics 1.0 is called in HTTP.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The port that scrapers connect to.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    peers_max: usize,
}

impl Endpoint {
    /// Listens, if the settings ask for it. Whoever reaches the address may read, so one that is not loopback is
    /// worth a warning.
    ///
    /// # Errors
    /// What binding says.
    pub async fn listen(address: Option<SocketAddr>, peers_max: usize) -> io::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "METRICS ARE OPEN TO THE NETWORK: the address is not loopback, and whoever \
                reaches it reads them without a password; restrict it by a firewall, or use 127.0.0.1");
        }
        let listener = TcpListener::bind(address).await?;
        tracing::info!(%address, "metrics are served");
        Ok(Some(Self { listener, peers_max }))
    }

    /// Peers that get series of their own.
    #[must_use]
    pub fn peers_max(&self) -> usize {
        self.peers_max
    }
}

/// The next scraper; without an endpoint, none ever.
///
/// # Errors
/// What accepting says.
pub async fn accept(endpoint: Option<&Endpoint>) -> io::Result<TcpStream> {
    match endpoint {
        Some(endpoint) => endpoint.listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Answers one request, whose sender may not dawdle.
pub async fn answer(stream: TcpStream, document: Document, peers_max: usize) {
    let service = service_fn(|request| respond(request, document.clone(), peers_max));
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // A scraper that goes away or stands still loses its answer, and nobody else anything.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

async fn respond(
    request: Request<Incoming>,
    document: Document,
    peers_max: usize,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    // Thousands of peers take a while to write down: not on the thread that does handshakes.
    let encoded = tokio::task::spawn_blocking(move || encode(&document, peers_max)).await;
    let Ok(Ok(text)) = encoded else {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"));
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
    Ok(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
