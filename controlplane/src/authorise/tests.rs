//! The authoriser against real servers on real sockets: those that answer, and those that are slow, down or mad.

use std::path::{Path, PathBuf};

use crossbeam::channel::bounded;
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::ReceiverIndex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

use super::*;
use crate::arithmetic::Pool;
use crate::gateway::Inbox;
use crate::settings::{PeerUpdate, Update};

struct Nowhere;

impl Outside for Nowhere {
    fn send_handshake(&mut self, _: &[u8], _: &Endpoint) {}
    fn receiver_added(&mut self, _: ReceiverIndex) {}
    fn receiver_removed(&mut self, _: ReceiverIndex) {}
    fn under_load(&mut self, _: bool) {}
    fn guard(&mut self, _: Option<&linegate_protocol::GuardKeys>) {}
}

/// What a server does with a request.
#[derive(Clone)]
enum Reply {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Says nothing and stays.
    Silence,
    /// Writes a good head, and then byte after byte for ever.
    Drip,
}

fn ok(json: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len()).into_bytes())
}

/// Serves one connection; tells what was asked.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: Reply, seen: mpsc::UnboundedSender<String>) {
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.ends_with(b"}") {
        let Ok(count @ 1..) = stream.read(&mut bytes).await else { return };
        request.extend_from_slice(&bytes[..count]);
    }
    seen.send(String::from_utf8(request).unwrap()).unwrap();
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Reply::Silence => std::future::pending().await,
        Reply::Drip => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut written = stream.write_all(head).await;
            while written.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                written = stream.write_all(b"1\r\n \r\n").await;
            }
        }
    }
}

struct Desk {
    authoriser: Authoriser,
    gateway: Gateway<Nowhere>,
    seen: mpsc::UnboundedReceiver<String>,
    now: Now,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

fn settings(folder: &Path) -> OnDemandSettings {
    OnDemandSettings {
        authoriser: Some(AuthoriserAddress::Unix(folder.join("authoriser.sock"))),
        timeout: Duration::from_secs(30),
        ..OnDemandSettings::default()
    }
}

impl Desk {
    fn new(reply: Option<Reply>, change: impl FnOnce(&mut OnDemandSettings, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings, folder.path());
        let authoriser = Authoriser::new(&settings, "wg0").unwrap();
        let inbox = Inbox { reports: bounded(1).1, handshakes: bounded(1).1 };
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
        let mut gateway = Gateway::new(StdRng::seed_from_u64(1), inbox, Pool::start(&wake).unwrap(), Nowhere);
        gateway.set_on_demand(Some(authoriser.limits()));
        let socket = folder.path().join("authoriser.sock");
        let (sender, seen) = mpsc::unbounded_channel();
        if let Some(reply) = reply {
            let listener = UnixListener::bind(&socket).unwrap();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, reply.clone(), sender.clone()));
                }
            });
        }
        let now = Now { mono: Instant::from_nanos(1_000_000_000), wall: Duration::from_secs(1_700_000_000) };
        Self { authoriser, gateway, seen, now, socket, folder }
    }

    fn serving(reply: Reply) -> Self {
        Self::new(Some(reply), |_, _| {})
    }

    fn meet(&mut self, n: u32) {
        let outcome = Outcome { strangers: vec![stranger(n)], ..Outcome::default() };
        self.authoriser.follow(outcome, &mut self.gateway, self.now);
    }

    /// Settles the next answer; gives its error.
    async fn settle(&mut self) -> Option<String> {
        let answered = self.authoriser.next().await;
        let error = answered.verdict.as_ref().err().map(ToString::to_string);
        self.authoriser.settle(answered, &mut self.gateway, self.now);
        error
    }

    fn count(&self, event: &str) -> u64 {
        self.authoriser.status(&self.gateway).events[event]
    }

    fn peers(&self) -> usize {
        self.gateway.snapshot().peers.len()
    }
}

fn stranger(n: u32) -> Stranger {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&n.to_le_bytes());
    Stranger { key: PublicKey::from_bytes(key), source: Endpoint::new("192.0.2.9:51820".parse().unwrap()) }
}

const YES: &str = r#"{"allow":true,"name":"b","allowed_ips":["10.60.1.0/24"],"remember_seconds":300}"#;

#[tokio::test]
async fn a_yes_makes_a_peer_and_is_remembered() {
    let mut desk = Desk::serving(ok(YES));
    desk.meet(1);
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    let request = desk.seen.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /authorise HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let key = name(&stranger(1).key);
    let expected = serde_json::json!({
        "version": 1, "interface": "wg0", "public_key": key, "source": "192.0.2.9:51820"
    });
    assert_eq!(body, expected);
    let snapshot = desk.gateway.snapshot();
    assert_eq!(snapshot.peers[0].allowed_ips, [("10.60.1.0".parse().unwrap(), 24)]);
    assert_eq!((desk.count("asked"), desk.count("allowed"), desk.count("cached")), (1, 1, 0));
    // It fell silent, and comes again: nobody is asked.
    let silent = |key| Gone { key, name: None, why: Why::Idle };
    let update = |key: PublicKey| PeerUpdate { public_key: key.to_bytes(), remove: true, ..PeerUpdate::default() };
    let remove = |desk: &mut Desk| {
        let update = Update { peers: vec![update(stranger(1).key)], ..Update::default() };
        desk.gateway.apply(&update, desk.now).unwrap();
        desk.gateway.turn(desk.now)
    };
    remove(&mut desk);
    let silent = Outcome { gone: vec![silent(stranger(1).key)], ..Outcome::default() };
    desk.authoriser.follow(silent, &mut desk.gateway, desk.now);
    desk.meet(1);
    assert_eq!((desk.peers(), desk.count("asked"), desk.count("cached"), desk.count("evicted_idle")), (1, 1, 1, 1));
    // It was removed by wg: somebody is asked.
    let outcome = remove(&mut desk);
    assert_eq!(outcome.gone.len(), 1);
    desk.authoriser.follow(outcome, &mut desk.gateway, desk.now);
    desk.meet(1);
    assert_eq!((desk.count("asked"), desk.peers()), (2, 0));
    assert_eq!(desk.settle().await, None);
    remove(&mut desk);
    desk.now.mono = desk.now.mono + Duration::from_secs(300);
    desk.meet(1);
    assert_eq!(desk.count("asked"), 3, "an answer is not remembered for ever");
}

#[tokio::test]
async fn a_no_is_counted_and_reloading_forgets_what_is_remembered() {
    let mut desk = Desk::serving(ok(r#"{"allow":false,"reason":"unknown site"}"#));
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    assert_eq!((desk.peers(), desk.count("refused"), desk.count("failed")), (0, 1, 0));
    let mut desk = Desk::serving(ok(YES));
    desk.meet(1);
    desk.settle().await;
    let all = Update { replace_peers: true, ..Update::default() };
    desk.gateway.apply(&all, desk.now).unwrap();
    desk.authoriser.forget(&mut desk.gateway);
    desk.meet(1);
    assert_eq!(desk.count("asked"), 2);
}

#[tokio::test]
async fn what_is_no_answer_changes_nothing_and_says_what_is_wrong() {
    let raw = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    let head = |more: &str| raw(&format!("HTTP/1.1 200 OK\r\n{more}\r\n\r\n"));
    let huge = format!(r#"{{"allow":true,"name":"{}"}}"#, "x".repeat(1 << 20));
    let table = [
        (raw(""), "broke off"),
        (raw("hello\r\n\r\n"), "broke off"),
        (raw("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "HTTP status 404"),
        (raw("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), "HTTP status 500"),
        (raw("HTTP/1.1 204 No Content\r\n\r\n"), "HTTP status 204"),
        (head("Content-Length: 100"), "broke off"),
        (head("Transfer-Encoding: chunked\r\n\r\nzz"), "broke off"),
        (head(&format!("X: {}", "y".repeat(1 << 20))), "broke off"),
        (head("Content-Length: 99999999999999999999999"), "broke off"),
        (ok(&huge), "larger than 65536 bytes"),
        (ok("<html>it works</html>"), "not JSON"),
        (ok(""), "not JSON"),
        (ok(r#"{"allow":"yes"}"#), "allow: found a string"),
        (ok(r#"{"allow":true,"allowed_ips":"10.0.0.0/8"}"#), "allowed_ips: found a string"),
        (Reply::Bytes(vec![0xff; 200_000]), "broke off"),
    ];
    for (reply, hint) in table {
        let mut desk = Desk::serving(reply);
        desk.meet(1);
        let error = desk.settle().await.unwrap();
        assert!(error.contains(hint), "{hint}: {error}");
        assert_eq!((desk.peers(), desk.count("failed"), desk.authoriser.asked.len()), (0, 1, 0), "{hint}");
        desk.meet(1);
        assert_eq!(desk.count("asked"), 2, "nothing is remembered of a failure");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure_until_somebody_is() {
    let mut desk = Desk::new(None, |_, _| {});
    desk.meet(1);
    assert!(desk.settle().await.unwrap().contains("nobody listens there"));
    drop(UnixListener::bind(&desk.socket).unwrap());
    desk.meet(1);
    assert!(desk.settle().await.unwrap().contains("nobody listens there"), "a socket that was left behind");
    assert_eq!(desk.count("failed"), 2);
}

#[tokio::test]
async fn an_authoriser_that_hangs_costs_a_bounded_amount() {
    for reply in [Reply::Silence, Reply::Drip] {
        let mut desk = Desk::new(Some(reply), |settings, _| {
            settings.timeout = Duration::from_millis(200);
            settings.concurrent = 3;
        });
        for n in 0..5000 {
            desk.meet(n);
        }
        assert_eq!(desk.authoriser.asked.len(), QUESTIONS_MAX);
        assert_eq!(desk.count("overflowed"), 5000 - QUESTIONS_MAX as u64);
        let other = PeerUpdate { public_key: [8; 32], ..PeerUpdate::default() };
        desk.gateway.apply(&Update { peers: vec![other], ..Update::default() }, desk.now).unwrap();
        for _ in 0..QUESTIONS_MAX {
            let error = desk.settle().await.unwrap();
            assert!(error.contains("no answer within 200 ms") || error.contains("wait already"), "{error}");
        }
        assert_eq!(desk.count("timed_out"), WAITING_MAX as u64);
        assert_eq!(desk.count("overflowed"), (5000 - WAITING_MAX) as u64);
        assert_eq!((desk.authoriser.asked.len(), desk.authoriser.questions.len(), desk.peers()), (0, 0, 1));
        assert_eq!(desk.authoriser.sources.turns.available_permits(), 3, "and every turn is given back");
    }
}

#[tokio::test]
async fn only_so_many_questions_are_under_way_at_a_time() {
    let mut desk = Desk::new(Some(Reply::Silence), |settings, _| settings.concurrent = 3);
    (0..100).for_each(|n| desk.meet(n));
    for _ in 0..3 {
        desk.seen.recv().await.unwrap();
    }
    for _ in 0..1000 {
        task::yield_now().await;
    }
    assert!(desk.seen.try_recv().is_err(), "a fourth");
    assert_eq!((desk.authoriser.sources.turns.available_permits(), desk.authoriser.asked.len()), (0, 100));
}

#[tokio::test]
async fn a_grant_that_takes_what_is_configured_is_not_carried_out() {
    let mut desk = Desk::serving(ok(YES));
    let configured = Update {
        peers: vec![PeerUpdate {
            public_key: [8; 32],
            allowed_ips: vec![crate::settings::AllowedIpChange {
                address: "10.60.0.0".parse().unwrap(),
                prefix: 16,
                remove: false,
            }],
            ..PeerUpdate::default()
        }],
        ..Update::default()
    };
    desk.gateway.apply(&configured, desk.now).unwrap();
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    assert_eq!((desk.count("not_admitted"), desk.peers()), (1, 1));
    assert_eq!(desk.authoriser.answers.len(), 0);
}

#[tokio::test]
async fn a_port_of_this_host_is_as_good_as_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/ask?hub=1", listener.local_addr().unwrap());
    let mut desk = Desk::new(None, |settings, _| settings.authoriser = Some(address.parse().unwrap()));
    let (sender, mut seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, ok(YES), sender).await;
    });
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    assert!(seen.recv().await.unwrap().starts_with("POST /ask?hub=1 HTTP/1.1\r\n"));
    assert_eq!(desk.peers(), 1);
}

#[tokio::test]
async fn before_a_grant_ends_somebody_is_asked_again() {
    let limited = r#"{"allow":true,"allowed_ips":[],"lifetime_seconds":100,"remember_seconds":3600}"#;
    let mut desk = Desk::serving(ok(limited));
    desk.meet(1);
    desk.settle().await;
    let renewal = || Outcome { renewals: vec![stranger(1)], ..Outcome::default() };
    desk.authoriser.follow(renewal(), &mut desk.gateway, desk.now);
    assert_eq!(desk.count("asked"), 2, "whatever is remembered");
    assert_eq!(desk.settle().await, None);
    assert_eq!((desk.count("allowed"), desk.count("renewed"), desk.peers()), (2, 1, 1));
    // This time it says no.
    let listener = UnixListener::bind(desk.folder.path().join("other.sock")).unwrap();
    std::fs::rename(desk.folder.path().join("other.sock"), &desk.socket).unwrap();
    let (sender, _seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, ok(r#"{"allow":false}"#), sender).await;
    });
    desk.authoriser.follow(renewal(), &mut desk.gateway, desk.now);
    assert_eq!(desk.settle().await, None);
    let outcome = desk.gateway.turn(desk.now);
    desk.authoriser.follow(outcome, &mut desk.gateway, desk.now);
    assert_eq!((desk.count("evicted_refused"), desk.peers()), (1, 0));
    desk.meet(1);
    assert_eq!(desk.count("cached"), 0, "the yes from before is forgotten");
}

#[tokio::test]
async fn the_directory_answers_while_the_authoriser_hangs() {
    let mut desk = Desk::new(Some(Reply::Silence), |settings, folder| {
        (settings.directory, settings.concurrent) = (Some(folder.join("peers.toml")), 1);
    });
    let key = name(&stranger(1000).key);
    std::fs::write(desk.folder.path().join("peers.toml"), format!("[\"{key}\"]\nallowed_ips = []\n")).unwrap();
    (0..=1000).for_each(|n| desk.meet(n));
    while desk.peers() == 0 {
        let error = desk.settle().await;
        assert!(error.is_none_or(|error| error.contains("wait already")));
    }
    assert_eq!((desk.count("allowed"), desk.authoriser.asked.len()), (1, WAITING_MAX));
}

#[tokio::test]
async fn the_directory_is_asked_first_and_suffices() {
    let mut desk = Desk::new(Some(ok(r#"{"allow":false}"#)), |settings, folder| {
        settings.directory = Some(folder.join("peers.toml"));
    });
    let key = name(&stranger(1).key);
    std::fs::write(desk.folder.path().join("peers.toml"), format!("[\"{key}\"]\nallowed_ips = []\n")).unwrap();
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    assert!(desk.seen.try_recv().is_err(), "the authoriser was not asked");
    desk.meet(2);
    assert_eq!(desk.settle().await, None);
    assert_eq!((desk.peers(), desk.count("allowed"), desk.count("refused")), (1, 1, 1));
    // A broken directory is no reason to pass it over: it might say no.
    std::fs::write(desk.folder.path().join("peers.toml"), "broken").unwrap();
    desk.meet(3);
    assert!(desk.settle().await.unwrap().contains("peers.toml:1:"));
    let mut desk = Desk::new(None, |settings, folder| {
        (settings.directory, settings.authoriser) = (Some(folder.to_owned()), None);
    });
    desk.meet(1);
    assert_eq!(desk.settle().await, None);
    assert_eq!(desk.count("refused"), 1, "who is not in it is refused");
}
