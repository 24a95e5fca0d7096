//! Transfers between two namespaces by sockets of this process, checked byte for byte.
#![expect(clippy::indexing_slicing, reason = "a count from a read lies within the buffer it was given")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns};
use xtask::netns::Namespace;
use xtask::shell;

const CHUNK_BYTES: usize = 32 << 10;
/// After this much silence a connection is broken.
const PATIENCE: Duration = Duration::from_secs(40);
const TCP_PORT: u16 = 7007;
const UDP_PORT: u16 = 7008;
const UDP_TRIES: usize = 5;

/// Runs something on a thread of its own in a namespace; its sockets stay there.
fn within<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    host: &'s Namespace,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 's,
) -> std::thread::ScopedJoinHandle<'s, anyhow::Result<T>> {
    scope.spawn(move || {
        let file = File::open(format!("/run/netns/{}", host.name()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
        work()
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

/// The stream's bytes: any piece can be made from its place.
fn pattern(at: u64, to: &mut [u8]) {
    for (place, byte) in (at..).zip(to) {
        let mixed = (place >> 3).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (mixed ^ (mixed >> 29)).to_le_bytes()[usize::try_from(place & 7).unwrap_or(0)];
    }
}

/// Sends at least `kib` from one host to an address of another, all of it compared. Half-way, `disturb` runs beside it,
/// and as much again is sent once that is done.
pub(crate) fn tcp(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    kib: u64,
    disturb: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let address = SocketAddr::new(address.parse::<IpAddr>()?, TCP_PORT);
    let (sent, disturbed, listening) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let half = kib * 512;
    let (total, received) = std::thread::scope(|scope| {
        let receiver = within(scope, to, || {
            let listener = TcpListener::bind(address)?;
            listening.store(true, Ordering::Release);
            receive(&listener)
        });
        ensure!(shell::wait_for(10, || listening.load(Ordering::Acquire)), "no listener on {address}");
        let sender = within(scope, from, || send(address, half, &sent, &disturbed));
        ensure!(
            shell::wait_for(120, || sent.load(Ordering::Acquire) >= half || sender.is_finished()),
            "the transfer stands still at {} bytes",
            sent.load(Ordering::Acquire)
        );
        let outcome = disturb();
        disturbed.store(true, Ordering::Release);
        let total = joined(sender).context("sending")?;
        let received = joined(receiver).context("receiving")?;
        outcome.map(|()| (total, received))
    })?;
    ensure!(total == received, "{total} bytes were sent, {received} arrived");
    Ok(())
}

fn send(to: SocketAddr, half: u64, sent: &AtomicU64, disturbed: &AtomicBool) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut at, mut last) = (0, u64::MAX);
    while at < last {
        pattern(at, &mut chunk);
        stream.write_all(&chunk).with_context(|| format!("after {at} bytes"))?;
        at += CHUNK_BYTES as u64;
        sent.store(at, Ordering::Release);
        if last == u64::MAX && at >= half && disturbed.load(Ordering::Acquire) {
            last = at + half;
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Until the far end has seen the end of it.
    stream.set_read_timeout(Some(PATIENCE))?;
    ensure!(stream.read(&mut [0])? == 0, "an answer nobody sent");
    Ok(at)
}

fn receive(listener: &TcpListener) -> anyhow::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut chunk, mut wanted) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    loop {
        let count = stream.read(&mut chunk).with_context(|| format!("after {at} bytes"))?;
        if count == 0 {
            return Ok(at);
        }
        let (got, wanted) = (&chunk[..count], &mut wanted[..count]);
        pattern(at, wanted);
        ensure!(got == wanted, "other bytes than were sent, within {count} from {at}");
        at += count as u64;
    }
}

/// Sends a datagram of each size and has it echoed, byte for byte; a lost one is sent again, a few times.
pub(crate) fn udp(from: &Namespace, to: &Namespace, address: &str, sizes: &[usize]) -> anyhow::Result<()> {
    let address = SocketAddr::new(address.parse::<IpAddr>()?, UDP_PORT);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echo = within(scope, to, || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut buffer = vec![0; 65_536];
            while !done.load(Ordering::Acquire) {
                if let Ok((count, source)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..count], source)?;
                }
            }
            Ok(())
        });
        let asker = within(scope, from, || {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            sizes.iter().try_for_each(|&size| echoed(&socket, address, size))
        });
        let asked = joined(asker);
        done.store(true, Ordering::Release);
        joined(echo)?;
        asked
    })
}

fn echoed(socket: &UdpSocket, to: SocketAddr, size: usize) -> anyhow::Result<()> {
    let (mut payload, mut buffer) = (vec![0; size], vec![0; 65_536]);
    pattern(size as u64 * 65_536, &mut payload);
    for _ in 0..UDP_TRIES {
        socket.send_to(&payload, to)?;
        while let Ok((count, _)) = socket.recv_from(&mut buffer) {
            if buffer[..count] == payload {
                return Ok(());
            }
        }
    }
    anyhow::bail!("a datagram of {size} bytes to {to} is not echoed")
}

/// Sends this many datagrams that nobody waits for; what the host refuses is not sent again.
pub(crate) fn flood(from: &Namespace, address: &str, count: usize) -> anyhow::Result<()> {
    let address = SocketAddr::new(address.parse::<IpAddr>()?, UDP_PORT);
    std::thread::scope(|scope| {
        joined(within(scope, from, || {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            for number in 0..count {
                // The tunnel interface's own queue is short.
                if number % 200 == 0 {
                    shell::pause();
                }
                let _ = socket.send_to(&[0x55; 200], address);
            }
            Ok(())
        }))
    })
}
