//! The interface over real sockets: nonsense leaves it serving, and the `wg` tool itself can use it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UnixListener;

use super::*;
use crate::settings::PeerSnapshot;

/// Where `wg` looks for sockets.
const DIRECTORY: &str = "/var/run/wireguard";

/// Keeps what it is told, as a gateway would.
#[derive(Default)]
struct Memory(Snapshot);

impl Memory {
    fn apply(&mut self, update: Update) {
        let state = &mut self.0;
        if update.replace_peers {
            state.peers.clear();
        }
        state.private_key = update.private_key.unwrap_or(state.private_key.take());
        state.listen_port = update.listen_port.unwrap_or(state.listen_port);
        state.fwmark = update.fwmark.unwrap_or(state.fwmark);
        for change in update.peers {
            let known = state.peers.iter().position(|peer| peer.public_key == change.public_key);
            if change.remove {
                known.map(|at| state.peers.remove(at));
                continue;
            }
            let at = match known {
                Some(at) => at,
                None if change.update_only => continue,
                None => {
                    state.peers.push(PeerSnapshot { public_key: change.public_key, ..PeerSnapshot::default() });
                    state.peers.len() - 1
                }
            };
            let peer = &mut state.peers[at];
            peer.preshared_key = change.preshared_key.unwrap_or(peer.preshared_key.take());
            peer.endpoint = change.endpoint.or(peer.endpoint);
            peer.persistent_keepalive = change.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
            if change.replace_allowed_ips {
                peer.allowed_ips.clear();
            }
            for ip in change.allowed_ips {
                peer.allowed_ips.retain(|had| *had != (ip.address, ip.prefix));
                if !ip.remove {
                    peer.allowed_ips.push((ip.address, ip.prefix));
                }
            }
        }
    }
}

/// A listener with its gateway on a thread of their own; the socket goes with it.
struct Served {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(path: PathBuf) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let at = path.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::bind(at).unwrap();
                ready.send(()).unwrap();
                let (sender, mut requests) = mpsc::channel(4);
                let mut memory = Memory::default();
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        accepted = listener.accept() => { tokio::spawn(serve(accepted.unwrap().0, sender.clone())); }
                        Some(request) = requests.recv() => match request {
                            Request::Get(answer) => answer.send(memory.0.clone()).unwrap(),
                            Request::Set(update, answer) if update.listen_port == Some(1) => {
                                drop((update, answer.send(-libc::EADDRINUSE)));
                            }
                            Request::Set(update, answer) => {
                                memory.apply(update);
                                answer.send(0).unwrap();
                            }
                        },
                    }
                }
            });
        });
        is_ready.recv_timeout(Duration::from_secs(30)).expect("the socket could not be bound (is this root?)");
        Self { path, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connect(served: &Served) -> std::os::unix::net::UnixStream {
    let stream = std::os::unix::net::UnixStream::connect(&served.path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends a request and reads up to the empty line.
fn ask_over(mut stream: &std::os::unix::net::UnixStream, request: &str) -> String {
    use std::io::{Read, Write};
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\n\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn several_requests_share_a_connection() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().join("a.sock"));
    let stream = connect(&served);
    assert_eq!(ask_over(&stream, "set=1\nlisten_port=7\n\n"), "errno=0\n\n");
    assert_eq!(ask_over(&stream, "set=1\nlisten_port=8\nbogus=1\n\n"), "errno=-22\n\n");
    assert_eq!(ask_over(&stream, "set=1\nlisten_port=1\n\n"), format!("errno=-{}\n\n", libc::EADDRINUSE));
    assert_eq!(ask_over(&stream, "get=1\n\n"), "listen_port=7\nerrno=0\n\n");
    // Two at once, and an incomplete one that is forgotten with its connection.
    assert_eq!(ask_over(&stream, "set=1\nfwmark=3\n\nget=1\n\nset=1\nfwmark=4\n"), "errno=0\n\n");
    assert_eq!(ask_over(&stream, ""), "listen_port=7\nfwmark=3\nerrno=0\n\n");
    drop(stream);
    assert_eq!(ask_over(&connect(&served), "get=1\n\n"), "listen_port=7\nfwmark=3\nerrno=0\n\n");
}

#[test]
fn a_megabyte_of_noise_leaves_it_serving() {
    use std::io::{Read, Write};
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(directory.path().join("a.sock"));
    let mut noise = vec![0; 1 << 20];
    StdRng::seed_from_u64(7).fill(noise.as_mut_slice());
    for head in ["", "set=1\n", "get=1\n"] {
        let mut stream = connect(&served);
        // It may hang up on nonsense at any time.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&noise));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("errno=0"), "noise was taken for a request");
        assert_eq!(ask_over(&connect(&served), "get=1\n\n"), "errno=0\n\n");
    }
}

#[tokio::test]
async fn a_connection_that_stands_still_is_ended() {
    use tokio::io::AsyncWriteExt;
    let (sender, mut requests) = mpsc::channel(1);
    for begun in ["", "set=1\nfwmark=1\n"] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(begun.as_bytes()).await.unwrap();
        serve_patiently(theirs, sender.clone(), Duration::from_millis(20)).await;
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    }
    assert!(requests.try_recv().is_err(), "an incomplete request was carried out");
}

fn wg(arguments: &[&str]) -> Output {
    Command::new("wg").args(arguments).output().expect("this test needs wireguard-tools")
}

fn ok(arguments: &[&str]) -> String {
    let output = wg(arguments);
    assert!(output.status.success(), "wg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_wg_tool_can_use_it() {
    fs::create_dir_all(DIRECTORY).unwrap();
    let name = format!("lgt{}", std::process::id());
    let _served = Served::start(PathBuf::from(DIRECTORY).join(format!("{name}.sock")));
    let files = tempfile::tempdir().unwrap();
    let file = |leaf: &str, text: &str| {
        let path = files.path().join(leaf);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = |byte: u8| {
        use base64::prelude::{BASE64_STANDARD, Engine};
        BASE64_STANDARD.encode([byte; 32])
    };
    // wg itself clamps nothing: these bytes are a clamped key already.
    let private = key(0x40);
    let (one, two, three, psk) = (key(1), key(2), key(3), key(9));
    let setconf = format!(
        "[Interface]\nPrivateKey = {private}\nListenPort = 5182\nFwMark = 0x10\n\n[Peer]\nPublicKey = {one}\n\
         PresharedKey = {psk}\nAllowedIPs = 10.0.0.0/24, fd00::/64\nEndpoint = [2001:db8::1]:4500\n\
         PersistentKeepalive = 25\n"
    );
    ok(&["setconf", &name, &file("set", &setconf)]);
    let first = format!("{one}\t{psk}\t[2001:db8::1]:4500\t10.0.0.0/24,fd00::/64\t0\t0\t0\t25\n");
    let dump = ok(&["show", &name, "dump"]);
    let (head, peers) = dump.split_once('\n').unwrap();
    assert!(head.starts_with(&private) && head.ends_with("\t5182\t0x10"), "{head}");
    assert_eq!(peers, first);

    ok(&["set", &name, "peer", &two, "allowed-ips", "10.1.0.0/16", "endpoint", "192.0.2.7:9"]);
    let second = format!("{two}\t(none)\t192.0.2.7:9\t10.1.0.0/16\t0\t0\t0\toff\n");
    assert!(ok(&["show", &name, "dump"]).ends_with(&format!("{first}{second}")));

    ok(&["addconf", &name, &file("add", &format!("[Peer]\nPublicKey = {three}\nAllowedIPs = 10.2.0.1/32\n"))]);
    assert_eq!(ok(&["show", &name, "peers"]), format!("{one}\n{two}\n{three}\n"));

    let none = file("none", "");
    ok(&["set", &name, "peer", &one, "preshared-key", &none, "persistent-keepalive", "off", "allowed-ips", ""]);
    assert!(ok(&["show", &name, "dump"]).contains(&format!("{one}\t(none)\t[2001:db8::1]:4500\t(none)\t")));

    ok(&["syncconf", &name, &file("sync", &format!("{setconf}[Peer]\nPublicKey = {three}\n"))]);
    assert_eq!(ok(&["show", &name, "peers"]), format!("{one}\n{three}\n"));
    assert!(ok(&["showconf", &name]).contains("FwMark = 0x10"));

    ok(&["set", &name, "private-key", &none, "fwmark", "off", "peer", &three, "remove"]);
    let dump = ok(&["show", &name, "dump"]);
    assert!(dump.starts_with("(none)\t(none)\t5182\toff\n") && !dump.contains(&three), "{dump}");

    let refused = wg(&["set", &name, "listen-port", "1"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Address already in use"), "{refused:?}");
}

#[test]
fn addresses_survive_the_way_there_and_back() {
    let address: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    let peer = PeerSnapshot { allowed_ips: vec![(address, 128)], ..PeerSnapshot::default() };
    let text = get_answer(&Snapshot { peers: vec![peer], ..Snapshot::default() });
    let line = text.lines().find(|line| line.starts_with("allowed_ip=")).unwrap();
    let key = "00".repeat(32);
    let (_, parsed) = Parser::default().feed(format!("set=1\npublic_key={key}\n{line}\n\n").as_bytes());
    let Some(Ok(Parsed::Set(update))) = parsed else { panic!("{parsed:?}") };
    assert_eq!(update.peers[0].allowed_ips[0].address, address);
}
