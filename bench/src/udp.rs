//! A UDP sender and receiver for packet rates through a tunnel: every datagram is numbered, so that what is lost, comes
//! twice or out of order is counted, and the sender costs as little as an application can.
//!
//! `--segments 1` sends and receives datagram by datagram, a system call each, as most programs do. With more, the sender
//! uses `UDP_SEGMENT` and the receiver `UDP_GRO`, as QUIC servers and media relays do.
#![expect(clippy::print_stdout, reason = "the result is what the command is for")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use serde::Serialize;
use serde_json::json;

/// Bytes of a datagram's number at its start.
const NUMBER_BYTES: usize = 8;
/// Datagrams that one receive call takes at most.
const RECEIVE_BUFFERS: usize = 32;
/// The end of a run: nothing for so long, after something came.
const QUIET: Duration = Duration::from_millis(500);
/// How long the first datagram may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Highest number of a datagram, so that the book of what came stays below 64 MiB.
const NUMBER_MAX: u64 = 1 << 29;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Receive, until nothing comes for half a second, and print what came as JSON.
    Receive {
        /// Address and port to listen on.
        listen: SocketAddr,
        /// 1: one datagram a call; more: UDP_GRO.
        #[arg(long, default_value_t = 1)]
        segments: usize,
    },
    /// Send as fast as possible, or at a rate, and print what was sent as JSON.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Bytes of each datagram.
        #[arg(long, default_value_t = 64)]
        bytes: usize,
        /// How long.
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Datagrams a call, by UDP_SEGMENT if more than one (at most 64).
        #[arg(long, default_value_t = 1)]
        segments: usize,
        /// Datagrams a second; as many as can be if not given.
        #[arg(long)]
        rate: Option<f64>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let report = match arguments.command {
        Command::Receive { listen, segments } => {
            let book = if segments > 1 { receive_many(listen)? } else { receive_singly(listen)? };
            serde_json::to_value(book.report())?
        }
        Command::Send { to, bytes, seconds, segments, rate } => {
            ensure!((NUMBER_BYTES..=65_000).contains(&bytes), "--bytes {bytes}: expected 8 to 65000");
            ensure!((1..=64).contains(&segments), "--segments {segments}: expected 1 to 64");
            ensure!(bytes * segments <= 65_000, "{segments} datagrams of {bytes} bytes exceed one call's 65000 bytes");
            let (sent, seconds) = send(to, bytes, Duration::from_secs_f64(seconds), segments, rate)?;
            json!({ "sent": sent, "seconds": seconds, "per_second": per_second(sent, seconds) })
        }
    };
    println!("{report}");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-3)
}

/// Sends numbered datagrams; says how many and how long it took.
fn send(
    to: SocketAddr,
    bytes: usize,
    duration: Duration,
    segments: usize,
    rate: Option<f64>,
) -> anyhow::Result<(u64, f64)> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket2::SockRef::from(&socket).set_send_buffer_size(4 << 20)?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    let state = UdpSocketState::new((&socket).into())?;
    socket.set_nonblocking(false)?;
    let mut buffer = vec![0u8; bytes * segments];
    let start = Instant::now();
    let mut sent = 0u64;
    while sent < NUMBER_MAX {
        let elapsed = start.elapsed();
        if elapsed >= duration {
            break;
        }
        if rate.is_some_and(|rate| per_second(sent, elapsed.as_secs_f64()) > rate && sent > 0) {
            std::hint::spin_loop();
            continue;
        }
        for (number, datagram) in (sent..).zip(buffer.chunks_exact_mut(bytes)) {
            if let Some(front) = datagram.first_chunk_mut::<NUMBER_BYTES>() {
                *front = number.to_be_bytes();
            }
        }
        let result = if segments == 1 {
            socket.send(&buffer).map(drop)
        } else {
            let segment_size = Some(bytes);
            let transmit = Transmit { destination: to, ecn: None, contents: &buffer, segment_size, src_ip: None };
            state.try_send((&socket).into(), &transmit)
        };
        match result {
            // Numbers that could not be sent are not used up: the receiver's losses are the tunnel's.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {}
            Err(error) if error.raw_os_error() == Some(105) => std::thread::yield_now(), // ENOBUFS: the queue is full
            Err(error) => return Err(error).context("sending"),
            Ok(()) => sent += segments as u64,
        }
    }
    Ok((sent, start.elapsed().as_secs_f64()))
}

fn listen_on(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("listening on {address}"))?;
    // The kernel halves it where rmem_max is smaller; a receiver that is slow loses all the same.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    socket.set_read_timeout(Some(QUIET))?;
    Ok(socket)
}

fn receive_singly(address: SocketAddr) -> anyhow::Result<Book> {
    let socket = listen_on(address)?;
    let mut buffer = vec![0u8; 65_536];
    let mut book = Book::default();
    while book.goes_on()? {
        match socket.recv(&mut buffer) {
            Ok(len) => book.note(buffer.get(..len).unwrap_or_default(), Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => book.note_quiet(),
            Err(error) => return Err(error).context("receiving"),
        }
    }
    Ok(book)
}

fn receive_many(address: SocketAddr) -> anyhow::Result<Book> {
    let socket = listen_on(address)?;
    let state = UdpSocketState::new((&socket).into())?;
    // It makes the socket non-blocking, which the time-out needs undone.
    socket.set_nonblocking(false)?;
    let mut memory = vec![0u8; RECEIVE_BUFFERS * 65_536];
    let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
    let mut book = Book::default();
    while book.goes_on()? {
        let mut buffers: Vec<IoSliceMut<'_>> = memory.chunks_exact_mut(65_536).map(IoSliceMut::new).collect();
        let count = match state.recv((&socket).into(), &mut buffers, &mut metas) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                book.note_quiet();
                continue;
            }
            Err(error) => return Err(error).context("receiving"),
        };
        let now = Instant::now();
        for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            for datagram in bytes.chunks(meta.stride.max(1)) {
                book.note(datagram, now);
            }
        }
    }
    Ok(book)
}

/// What came.
#[derive(Default)]
struct Book {
    seen: Vec<u64>,
    received: u64,
    duplicates: u64,
    reordered: u64,
    malformed: u64,
    highest: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    opened: Option<Instant>,
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    received: u64,
    lost: u64,
    duplicates: u64,
    reordered: u64,
    malformed: u64,
    seconds: f64,
    per_second: f64,
}

impl Book {
    /// Whether more may come.
    fn goes_on(&mut self) -> anyhow::Result<bool> {
        let opened = *self.opened.get_or_insert_with(Instant::now);
        if self.first.is_none() && opened.elapsed() > PATIENCE {
            bail!("nothing came within {} s", PATIENCE.as_secs());
        }
        Ok(!self.quiet)
    }

    fn note_quiet(&mut self) {
        self.quiet = self.first.is_some();
    }

    fn note(&mut self, datagram: &[u8], now: Instant) {
        let number = datagram.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number));
        let Some(word) = usize::try_from(number / 64).ok().filter(|_| number < NUMBER_MAX) else {
            self.malformed += 1;
            return;
        };
        self.first.get_or_insert(now);
        self.last = Some(now);
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        let Some(word) = self.seen.get_mut(word) else { return };
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        self.reordered += u64::from(number < self.highest);
        self.highest = self.highest.max(number);
    }

    fn report(&self) -> Report {
        let seconds = match (self.first, self.last) {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => 0.0,
        };
        Report {
            received: self.received,
            // Numbers after the last that came are not known to have been sent.
            lost: (self.highest + 1).saturating_sub(self.received),
            duplicates: self.duplicates,
            reordered: self.reordered,
            malformed: self.malformed,
            seconds,
            per_second: per_second(self.received, seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_is_accounted_for() {
        let mut book = Book::default();
        for number in [0u64, 1, 3, 2, 2, 70] {
            book.note(&number.to_be_bytes(), Instant::now());
        }
        book.note(b"short", Instant::now());
        let report = book.report();
        assert_eq!((report.received, report.duplicates, report.reordered, report.malformed), (5, 1, 1, 1));
        assert_eq!(report.lost, 66);
    }

    #[test]
    fn what_is_sent_on_the_loopback_arrives() {
        for segments in [1, 16] {
            let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = probe.local_addr().unwrap();
            drop(probe);
            let receiver = std::thread::spawn(move || {
                if segments > 1 { receive_many(address).unwrap() } else { receive_singly(address).unwrap() }
            });
            std::thread::sleep(Duration::from_millis(100));
            let (sent, _) = send(address, 64, Duration::from_millis(200), segments, Some(20_000.0)).unwrap();
            let book = receiver.join().unwrap();
            assert!(sent > 0 && book.received >= sent / 2 && book.received <= sent, "{sent} {}", book.received);
            assert_eq!((book.duplicates, book.malformed), (0, 0));
        }
    }
}
