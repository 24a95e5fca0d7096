//! A forwarder of known behaviour, to test the load generator with: every datagram goes on to another address, a known
//! time later, except that known ones are dropped and others go on twice.
#![expect(clippy::print_stdout, reason = "the counts are what the command is for")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use linegate_dataplane::clock::Clock;
use linegate_wire::time::Instant;
use serde_json::{Value, json};

use crate::interrupt::Interrupt;

/// Bytes of the sockets' buffers.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Datagrams that may wait.
const WAITING_MAX: usize = 1 << 20;
/// How often interrupts are looked at.
const PATIENCE: Duration = Duration::from_millis(50);
const DATAGRAM_MAX_BYTES: usize = 65_536;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address and port to receive on.
    listen: SocketAddr,
    /// Where everything goes.
    to: SocketAddr,
    /// Drop every so many-th datagram; 0 drops none.
    #[arg(long, default_value_t = 0)]
    drop_every: u64,
    /// Send every so many-th datagram twice; 0 sends none twice.
    #[arg(long, default_value_t = 0)]
    duplicate_every: u64,
    /// Microseconds that each datagram is kept.
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Tell the counts on this UNIX socket, in the form of linegate's status.
    #[arg(long)]
    status: Option<PathBuf>,
}

#[derive(Default)]
struct Counts {
    received: u64,
    dropped: u64,
    duplicated: u64,
    sent: u64,
    overflowed: u64,
    refused: u64,
}

impl Counts {
    fn report(&self) -> Value {
        json!({
            "received": self.received,
            "sent": self.sent,
            "duplicated": self.duplicated,
            "workers": [{
                "drops": { "on_purpose": self.dropped, "overflow": self.overflowed, "refused": self.refused }
            }],
        })
    }
}

/// Forwards until it is interrupted, and prints what it did as JSON.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let interrupt = Interrupt::catch()?;
    let socket = UdpSocket::bind(arguments.listen).with_context(|| format!("listening on {}", arguments.listen))?;
    let options = socket2::SockRef::from(&socket);
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    let sender = UdpSocket::bind(if arguments.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    sender.connect(arguments.to).with_context(|| format!("no way to {}", arguments.to))?;
    let status = arguments.status.as_ref().map(UnixListener::bind).transpose().context("--status")?;
    if let Some(status) = &status {
        status.set_nonblocking(true)?;
    }
    ensure!(arguments.drop_every != 1, "--drop-every 1 would drop everything: expected 0, or 2 and more");
    let result = forward(arguments, &socket, &sender, status.as_ref(), &interrupt);
    if let Some(path) = &arguments.status {
        let _ = std::fs::remove_file(path);
    }
    println!("{}", result?.report());
    Ok(())
}

fn forward(
    arguments: &Arguments,
    socket: &UdpSocket,
    sender: &UdpSocket,
    status: Option<&UnixListener>,
    interrupt: &Interrupt,
) -> anyhow::Result<Counts> {
    let delay = Duration::from_micros(arguments.delay_us);
    let is_nth = |count: u64, every: u64| every > 0 && count.is_multiple_of(every);
    let mut counts = Counts::default();
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
    while !interrupt.is_set() {
        if let Some(Ok((mut asker, _))) = status.map(UnixListener::accept) {
            let _ = asker.write_all(counts.report().to_string().as_bytes());
        }
        let now = Clock.now();
        while let Some((_, datagram)) = waiting.pop_front_if(|(due, _)| *due <= now) {
            match sender.send(&datagram) {
                Ok(_) => counts.sent += 1,
                Err(_) => counts.refused += 1,
            }
        }
        let next = waiting.front().map_or(PATIENCE, |(due, _)| due.saturating_since(now)).min(PATIENCE);
        // A time-out of zero would wait for ever.
        socket.set_read_timeout(Some(next.max(Duration::from_micros(1))))?;
        let count = match socket.recv(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error).context("receiving"),
        };
        counts.received += 1;
        let datagram = buffer.get(..count).unwrap_or_default();
        let copies = match counts.received {
            nth if is_nth(nth, arguments.drop_every) => {
                counts.dropped += 1;
                0
            }
            // Not the ones that are dropped, if both are one in as many.
            nth if is_nth(nth + 1, arguments.duplicate_every) => {
                counts.duplicated += 1;
                2
            }
            _ => 1,
        };
        let due = Clock.now() + delay;
        for _ in 0..copies {
            if waiting.len() < WAITING_MAX {
                waiting.push_back((due, datagram.to_vec()));
            } else {
                counts.overflowed += 1;
            }
        }
    }
    Ok(counts)
}
