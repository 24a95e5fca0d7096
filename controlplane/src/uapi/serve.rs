//! One connection of `wg` or of another program: request after request, until it goes, stands still or talks nonsense.
//!
//! A connection holds one request at a time and waits for its answer, so it costs a bounded amount of memory; one
//! deadline covers the wait for a request and its arrival, so nobody holds a connection by sending slowly.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::format::{errno_answer, get_answer};
use super::parse::{Parsed, Parser, RequestError};
use crate::settings::{Snapshot, Update};

/// How long a connection may stay without a complete request, and how long an answer may take to be read.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// What the gateway is asked, and where the answer goes. If the answer's sender is dropped, the connection ends.
#[derive(Debug)]
pub enum Request {
    /// The state of everything.
    Get(oneshot::Sender<Snapshot>),
    /// A change, and the error number: 0 if it was applied.
    Set(Update, oneshot::Sender<i32>),
}

/// Serves one connection until it ends.
pub async fn serve(stream: UnixStream, requests: mpsc::Sender<Request>) {
    serve_patiently(stream, requests, REQUEST_TIMEOUT).await;
}

async fn serve_patiently(stream: UnixStream, requests: mpsc::Sender<Request>, patience: Duration) {
    let input = Zeroizing::new(vec![0; READ_BYTES]);
    let mut connection = Connection { stream, parser: Parser::default(), input, start: 0, end: 0, patience };
    if let Err(error) = connection.run(&requests).await {
        tracing::debug!(%error, "a connection for configuration ended");
    }
}

struct Connection {
    stream: UnixStream,
    parser: Parser,
    /// Bytes read; those of `start..end` are not parsed yet.
    input: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
    patience: Duration,
}

impl Connection {
    async fn run(&mut self, requests: &mpsc::Sender<Request>) -> io::Result<()> {
        while let Some(request) = timeout(self.patience, self.next_request()).await?? {
            match request {
                Ok(Parsed::Get) => {
                    let (sender, answer) = oneshot::channel();
                    let snapshot = ask(requests, Request::Get(sender), answer).await?;
                    self.write(&get_answer(&snapshot)).await?;
                }
                Ok(Parsed::Set(update)) => {
                    let (sender, answer) = oneshot::channel();
                    let errno = ask(requests, Request::Set(update, sender), answer).await?;
                    self.write(&errno_answer(errno)).await?;
                }
                Err(error) => {
                    tracing::debug!(%error, "a configuration request was refused");
                    self.write(&errno_answer(error.errno())).await?;
                    if error.is_fatal() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The next request; nothing at the end of the stream, where an incomplete request is forgotten.
    async fn next_request(&mut self) -> io::Result<Option<Result<Parsed, RequestError>>> {
        loop {
            let unread = self.input.get(self.start..self.end).unwrap_or_default();
            let (taken, request) = self.parser.feed(unread);
            self.start += taken;
            if request.is_some() {
                return Ok(request);
            }
            (self.start, self.end) = (0, self.stream.read(&mut self.input).await?);
            if self.end == 0 {
                return Ok(None);
            }
        }
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        timeout(self.patience, self.stream.write_all(text.as_bytes())).await?
    }
}

async fn ask<T>(requests: &mpsc::Sender<Request>, request: Request, answer: oneshot::Receiver<T>) -> io::Result<T> {
    let ended = || io::Error::other("the gateway has ended");
    requests.send(request).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
