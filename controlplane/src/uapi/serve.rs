//! One connection: any number of requests, each answered before the next is read.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::format::get_answer;
use super::parse::{Parsed, parse};
use crate::settings::{Snapshot, Update};

/// The longest line.
const LINE_MAX_BYTES: u64 = 4096;
/// The longest request: 100,000 peers with some prefixes each.
const REQUEST_MAX_BYTES: usize = 64 << 20;
/// How long a client may keep silent.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A request, for the owner of the gateway.
#[derive(Debug)]
pub enum Request {
    /// Tell what there is.
    Get(oneshot::Sender<Snapshot>),
    /// Apply this; answered by 0 or a positive errno.
    Set(Update, oneshot::Sender<i32>),
}

/// Serves one client until it goes, or breaks the rules.
pub async fn serve(stream: UnixStream, gateway: mpsc::Sender<Request>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Ok(Some(request)) = timeout(IDLE_MAX, read_request(&mut reader)).await {
        let answer = match request {
            Ok(text) => answer(&text, &gateway).await,
            Err(errno) => {
                let _ = writer.write_all(errno_line(errno).as_bytes()).await;
                return;
            }
        };
        let Some(answer) = answer else { return };
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The lines up to the empty one; nothing at the end of the stream; an errno for what cannot be a request.
async fn read_request(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Result<Zeroizing<String>, i32>> {
    let mut text = Zeroizing::new(String::new());
    loop {
        let before = text.len();
        let mut limited = reader.take(LINE_MAX_BYTES);
        match limited.read_line(&mut text).await {
            Ok(0) => return None,
            Ok(_) => {}
            // Not UTF-8.
            Err(_) => return Some(Err(libc::EPROTO)),
        }
        match text.get(before..) {
            Some("\n") => {
                text.truncate(before);
                return Some(Ok(text));
            }
            Some(line) if line.ends_with('\n') && text.len() <= REQUEST_MAX_BYTES => {}
            _ => return Some(Err(libc::EPROTO)),
        }
    }
}

async fn answer(text: &str, gateway: &mpsc::Sender<Request>) -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(match parse(text.lines()) {
        Ok(Parsed::Get) => {
            let (sender, snapshot) = oneshot::channel();
            gateway.send(Request::Get(sender)).await.ok()?;
            get_answer(&snapshot.await.ok()?)
        }
        Ok(Parsed::Set(update)) => {
            let (sender, errno) = oneshot::channel();
            gateway.send(Request::Set(update, sender)).await.ok()?;
            errno_line(errno.await.ok()?)
        }
        Err(error) => {
            tracing::warn!(errno = error.errno, reason = error.message, "a request was refused");
            errno_line(error.errno)
        }
    }))
}

/// Negative, as `wg` expects it.
fn errno_line(errno: i32) -> String {
    format!("errno={}\n\n", -errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(stream: &mut UnixStream, request: &[u8]) -> String {
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            let mut byte = [0; 256];
            let count = stream.read(&mut byte).await.unwrap();
            assert_ne!(count, 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&byte[..count]).unwrap());
        }
        text
    }

    fn gateway() -> mpsc::Sender<Request> {
        let (sender, mut requests) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Get(answer) => drop(answer.send(Snapshot { listen_port: 7, ..Snapshot::default() })),
                    Request::Set(update, answer) => {
                        let errno = if update.listen_port == Some(1) { libc::EADDRINUSE } else { 0 };
                        drop(answer.send(errno));
                    }
                }
            }
        });
        sender
    }

    #[tokio::test]
    async fn requests_are_answered_one_after_another_however_they_arrive() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve(ours, gateway()));
        assert_eq!(exchange(&mut theirs, b"get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
        theirs.write_all(b"set=1\nlisten").await.unwrap();
        assert_eq!(exchange(&mut theirs, b"_port=9\n\n").await, "errno=0\n\n");
        assert_eq!(exchange(&mut theirs, b"set=1\nlisten_port=1\n\n").await, "errno=-98\n\n");
        assert_eq!(exchange(&mut theirs, b"set=1\nhello=1\n\n").await, "errno=-22\n\n");
        assert_eq!(exchange(&mut theirs, b"get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
    }

    #[tokio::test]
    async fn a_megabyte_of_random_bytes_leaves_the_next_client_served() {
        let gateway = gateway();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let served = tokio::spawn(serve(ours, gateway.clone()));
        let mut seed = 1u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        })
        .take(1 << 20)
        .collect();
        // The other end closes on us as soon as it sees what this is.
        let _ = theirs.write_all(&bytes).await;
        drop(theirs);
        served.await.unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve(ours, gateway));
        assert_eq!(exchange(&mut theirs, b"get=1\n\n").await, "listen_port=7\nerrno=0\n\n");
    }
}
