//! The authoriser: one HTTP request a question, on a connection of its own, over a UNIX socket or on loopback.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use linegate_wire::time::Now;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::answer::Document;
use super::{AskError, Question, Verdict};
use crate::config::AuthoriserAddress;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer's head at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The path of a request over a UNIX socket.
const PATH: &str = "/authorise";

/// Asks, and understands the answer. How long it may take is the caller's to say.
pub(super) async fn ask(address: &AuthoriserAddress, question: &Question, now: Now) -> Result<Verdict, AskError> {
    let answer = match address {
        AuthoriserAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(AskError::Connect)?;
            exchange(stream, PATH, question).await?
        }
        AuthoriserAddress::Loopback { address, path } => {
            let stream = TcpStream::connect(address).await.map_err(AskError::Connect)?;
            exchange(stream, path, question).await?
        }
    };
    Ok(Document::from_json(&answer)?.verdict(None, now)?)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    question: &Question,
) -> Result<Zeroizing<Vec<u8>>, AskError> {
    let body = serde_json::to_vec(question).map_err(std::io::Error::from).map_err(AskError::Connect)?;
    let request = Request::post(path)
        .header(HOST, HeaderValue::from_static("localhost"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| AskError::Connect(std::io::Error::other(error)))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // The connection may end before its last bytes are read; the exchange says whether that was an error.
    let driver = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = async { read(sender.send_request(request).await?).await } => answer,
        never = driver => never,
    }
}

async fn read(response: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, AskError> {
    if response.status() != StatusCode::OK {
        return Err(AskError::Status(response.status().as_u16()));
    }
    // All room at once: growing would leave copies of a key behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if answer.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(AskError::TooLarge(ANSWER_BYTES_MAX));
        }
        answer.extend_from_slice(&data);
    }
    Ok(answer)
}
