//! The program in the kernel (`BPF_PROG_TEST_RUN`) on crafted frames: one verdict each, and its counter. Root is needed.
#![expect(unsafe_code, reason = "BPF_PROG_TEST_RUN is a raw system call")]
#![expect(clippy::disallowed_methods, reason = "the program's buckets fill by the kernel's clock")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helpers fail as the test itself does"
)]

use std::net::IpAddr;
use std::os::fd::RawFd;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use linegate_ebpf::{Steering, SteeringConfig, Verdict};

const PORT: u16 = 51820;
const PASS: u32 = 2;
const DROP: u32 = 1;
const LIVE: u32 = 0x8765_4321;

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 8],
}

fn run(program: RawFd, frame: &[u8]) -> Option<u32> {
    run_often(program, frame, 1)
}

/// Runs it as often in one go; what the last run says.
fn run_often(program: RawFd, frame: &[u8], repeat: u32) -> Option<u32> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut attributes = TestRun {
        program: u32::try_from(program).unwrap(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: the attributes are this command's, and the frame outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    (result == 0).then_some(attributes.result)
}

struct Bench {
    steering: Steering,
    program: RawFd,
}

impl Bench {
    fn new() -> Self {
        let mut steering = Steering::load(&SteeringConfig { port: PORT, any_address: false, queues: 1 }).unwrap();
        let ours: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        steering.set_local_addresses(&ours).unwrap();
        steering.add_receiver(LIVE).unwrap();
        let program = steering.program_fd().unwrap();
        Self { steering, program }
    }

    fn count(&self, verdict: Verdict) -> u64 {
        let counters = self.steering.counters().unwrap();
        counters.into_iter().find(|(name, _)| name == verdict.name()).unwrap().1
    }

    fn expect(&self, name: &str, frame: &[u8], verdict: Verdict, action: u32) {
        let (before, all) = (self.count(verdict), self.total());
        assert_eq!(run(self.program, frame), Some(action), "{name}");
        assert_eq!(self.count(verdict), before + 1, "{name}: {}", verdict.name());
        assert_eq!(self.total(), all + 1, "{name}: one counter and no other");
    }

    fn total(&self) -> u64 {
        self.steering.counters().unwrap().iter().map(|(_, count)| count).sum()
    }
}

fn v4(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 42];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((28 + payload.len()) as u16).to_be_bytes());
    frame[22] = 64;
    frame[23] = 17;
    frame[26..30].copy_from_slice(&[198, 51, 100, 7]);
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    frame.extend(payload);
    frame
}

fn v6(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 62];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    frame[20] = 17;
    frame[21] = 64;
    frame[22..24].copy_from_slice(&[0x20, 1]);
    frame[38..54].copy_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    frame[56..58].copy_from_slice(&PORT.to_be_bytes());
    frame[58..60].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    frame.extend(payload);
    frame
}

fn message(kind: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes
}

fn transport(index: u32, len: usize) -> Vec<u8> {
    let mut bytes = message(4, len);
    bytes[4..8].copy_from_slice(&index.to_le_bytes());
    bytes
}

fn changed(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

#[test]
fn every_kind_of_frame_meets_its_verdict() {
    let bench = Bench::new();
    let live = || v4(&transport(LIVE, 48));
    let cases: Vec<(&str, Vec<u8>, Verdict, u32)> = vec![
        // No AF_XDP socket is bound here: what would be redirected passes, so that the kernel's socket serves it.
        ("live index", live(), Verdict::NoSocket, PASS),
        ("live index over IPv6", v6(&transport(LIVE, 48)), Verdict::NoSocket, PASS),
        ("keepalive", v4(&transport(LIVE, 32)), Verdict::NoSocket, PASS),
        ("unknown index", v4(&transport(1, 48)), Verdict::UnknownReceiver, DROP),
        ("right slot, wrong index", v4(&transport(LIVE ^ 0x8000_0000, 48)), Verdict::UnknownReceiver, DROP),
        ("index 0 is not none", v4(&transport(0, 48)), Verdict::UnknownReceiver, DROP),
        ("too short for transport", v4(&transport(LIVE, 31)), Verdict::Malformed, DROP),
        ("initiation", v4(&message(1, 148)), Verdict::HandshakePassed, PASS),
        ("response", v6(&message(2, 92)), Verdict::HandshakePassed, PASS),
        ("cookie reply", v4(&message(3, 64)), Verdict::HandshakePassed, PASS),
        ("initiation of a wrong size", v4(&message(1, 149)), Verdict::Malformed, DROP),
        ("response of a wrong size", v4(&message(2, 91)), Verdict::Malformed, DROP),
        ("cookie reply of a wrong size", v4(&message(3, 63)), Verdict::Malformed, DROP),
        ("reserved bytes", v4(&message(0x0100_0004, 48)), Verdict::Malformed, DROP),
        ("type 5", v4(&message(5, 48)), Verdict::Malformed, DROP),
        ("empty datagram", v4(&[]), Verdict::Malformed, DROP),
        ("another port", changed(live(), 37, 1), Verdict::OtherPort, PASS),
        ("another address", changed(live(), 33, 2), Verdict::OtherAddress, PASS),
        ("VLAN", changed(changed(live(), 12, 0x81), 13, 0), Verdict::Vlan, PASS),
        ("QinQ", changed(changed(live(), 12, 0x88), 13, 0xa8), Verdict::Vlan, PASS),
        ("ARP", changed(live(), 13, 6), Verdict::NotIp, PASS),
        ("TCP", changed(live(), 23, 6), Verdict::NotUdp, PASS),
        ("options", changed(live(), 14, 0x46), Verdict::IpOptions, PASS),
        ("first fragment", changed(live(), 20, 0x20), Verdict::Fragment, PASS),
        ("later fragment", changed(live(), 21, 8), Verdict::Fragment, PASS),
        ("don't fragment is no fragment", changed(live(), 20, 0x40), Verdict::NoSocket, PASS),
        ("IPv6 fragment", changed(v6(&transport(LIVE, 48)), 20, 44), Verdict::Ipv6Extension, PASS),
        ("IPv6 hop-by-hop", changed(v6(&transport(LIVE, 48)), 20, 0), Verdict::Ipv6Extension, PASS),
        ("IPv6 ICMP", changed(v6(&transport(LIVE, 48)), 20, 58), Verdict::NotUdp, PASS),
        ("UDP length beyond the frame", changed(live(), 39, 200), Verdict::Truncated, PASS),
        ("UDP length beyond the IP packet", changed(live(), 17, 60), Verdict::Truncated, PASS),
        ("UDP length below its header", changed(live(), 39, 7), Verdict::Truncated, PASS),
    ];
    for (name, frame, verdict, action) in cases {
        bench.expect(name, &frame, verdict, action);
    }
}

#[test]
fn a_frame_cut_anywhere_passes_to_the_kernel() {
    let bench = Bench::new();
    for frame in [v4(&transport(LIVE, 48)), v6(&transport(LIVE, 48))] {
        // The kernel runs nothing below an Ethernet header.
        for len in 14..frame.len() {
            bench.expect(&format!("cut to {len} bytes"), &frame[..len], Verdict::Truncated, PASS);
        }
    }
}

#[test]
fn an_index_that_is_removed_is_unknown_again() {
    let mut bench = Bench::new();
    bench.steering.remove_receiver(LIVE).unwrap();
    bench.expect("removed", &v4(&transport(LIVE, 48)), Verdict::UnknownReceiver, DROP);
    bench.steering.set_port(1).unwrap();
    bench.expect("port changed", &v4(&transport(LIVE, 48)), Verdict::OtherPort, PASS);
    bench.steering.set_local_addresses(&["192.0.2.9".parse().unwrap()]).unwrap();
    bench.steering.set_port(PORT).unwrap();
    bench.expect("addresses changed", &v4(&transport(LIVE, 48)), Verdict::OtherAddress, PASS);
}

/// A mac of the protocol (paper, section 5.4: MAC).
fn mac(key: &[u8], bytes: &[u8]) -> [u8; 16] {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize_fixed().into()
}

/// The cookie of a frame's sender (paper, section 5.4.7): of its address, as IPv6 writes it, and its port.
fn cookie(frame: &[u8]) -> [u8; 16] {
    let mut sender = [0; 18];
    let port = if frame[14] >> 4 == 4 {
        sender[10..12].fill(0xff);
        sender[12..16].copy_from_slice(&frame[26..30]);
        34
    } else {
        sender[..16].copy_from_slice(&frame[22..38]);
        54
    };
    sender[16..].copy_from_slice(&frame[port..port + 2]);
    mac(&SECRET, &sender)
}

const MAC1_KEY: [u8; 32] = [0x5a; 32];
const SECRET: [u8; 32] = [0xa5; 32];

/// The frame with its macs set right; mac2 only if there is a cookie.
fn signed(mut frame: Vec<u8>, cookie: Option<[u8; 16]>) -> Vec<u8> {
    let message = if frame[14] >> 4 == 4 { 42 } else { 62 };
    let end = frame.len();
    let mac1 = mac(&MAC1_KEY, &frame[message..end - 32]);
    frame[end - 32..end - 16].copy_from_slice(&mac1);
    let mac2 = cookie.map_or([0; 16], |cookie| mac(&cookie, &frame[message..end - 16]));
    frame[end - 16..].copy_from_slice(&mac2);
    frame
}

fn guarded() -> Bench {
    let mut bench = Bench::new();
    bench.steering.set_guard(Some((&MAC1_KEY, Some(&SECRET)))).unwrap();
    bench
}

/// Handshake messages of every kind and from either IP version.
fn messages() -> Vec<Vec<u8>> {
    vec![v4(&message(1, 148)), v4(&message(2, 92)), v6(&message(1, 148)), v6(&message(2, 92))]
}

#[test]
fn handshakes_that_do_not_know_our_key_end_in_the_program() {
    let mut bench = guarded();
    for frame in messages() {
        bench.expect("no mac", &frame, Verdict::InvalidMac1, DROP);
        let frame = signed(frame, None);
        bench.expect("mac1", &frame, Verdict::HandshakePassed, PASS);
        let start = if frame[14] >> 4 == 4 { 42 } else { 62 };
        // Each bit of type and reserved bytes makes it another message, the rest makes its mac1 wrong.
        for at in start + 4..frame.len() - 16 {
            let flipped = changed(frame.clone(), at, frame[at] ^ 1 << (at % 8));
            bench.expect(&format!("bit of byte {at}"), &flipped, Verdict::InvalidMac1, DROP);
        }
    }
    bench.steering.set_guard(None).unwrap();
    bench.steering.set_guard(None).unwrap();
    bench.expect("no key", &v4(&message(1, 148)), Verdict::HandshakePassed, PASS);
}

/// How many passed of many.
fn passed(bench: &Bench, frame: &[u8], of: usize) -> usize {
    (0..of).filter(|_| run(bench.program, frame) == Some(PASS)).count()
}

/// How many of 30,000 passed of those that prove nothing, whose rate is 10,000 a second and 1,000 at once on each CPU.
fn strangers_passed(bench: &Bench, frame: &[u8]) -> usize {
    let start = std::time::Instant::now();
    let passed = passed(bench, frame, 30_000);
    let earned = usize::try_from(start.elapsed().as_millis()).unwrap() * 10 + 10;
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert!(passed <= 1000 * cpus + earned * cpus, "{passed} passed, {earned} tokens earned meanwhile");
    passed
}

#[test]
fn under_load_each_source_with_a_cookie_has_its_own_few_handshakes() {
    let mut bench = guarded();
    let proved = |frame: Vec<u8>| {
        let cookie = cookie(&frame);
        signed(frame, Some(cookie))
    };
    for frame in messages() {
        assert_eq!(passed(&bench, &proved(frame.clone()), 20), 20, "no load, no limit");
        assert_eq!(passed(&bench, &signed(frame, None), 20), 20);
    }
    bench.steering.set_under_load(true).unwrap();
    for (host, frame) in messages().into_iter().enumerate() {
        // The last byte of an IPv4 source, and one within the first 64 bits of an IPv6 source.
        let frame = proved(changed(frame, 29, 100 + host as u8));
        let passed = passed(&bench, &frame, 1000);
        // Five at once, and 20 a second.
        assert!((5..200).contains(&passed), "{passed}");
    }
    assert!(bench.count(Verdict::HandshakeLimited) >= 3200);
    assert_eq!(bench.count(Verdict::HandshakeNoCookie), 0);
    let same_subnet = proved(changed(changed(v6(&message(1, 148)), 29, 102), 37, 9));
    assert!(passed(&bench, &same_subnet, 100) < 50, "a /64 is one source");
}

#[test]
fn under_load_what_proves_nothing_passes_at_a_small_rate() {
    let mut bench = guarded();
    bench.steering.set_under_load(true).unwrap();
    let frame = v4(&message(1, 148));
    let stolen = signed(frame.clone(), Some(cookie(&changed(frame.clone(), 34, 77))));
    for (kind, frame) in [("no cookie", signed(frame.clone(), None)), ("another port's cookie", stolen)] {
        let dropped = || bench.count(Verdict::HandshakeNoCookie) + bench.count(Verdict::HandshakeUnread);
        let before = dropped();
        let passed = strangers_passed(&bench, &frame);
        assert_eq!(dropped() - before, 30_000 - passed as u64, "{kind}");
    }
    let before = bench.count(Verdict::InvalidMac1);
    std::thread::sleep(std::time::Duration::from_millis(10));
    passed(&bench, &frame, 1000);
    assert!(bench.count(Verdict::InvalidMac1) > before, "who does not know our key uses up no token");
    let own = cookie(&frame);
    bench.expect("whoever has one is not held up", &signed(frame.clone(), Some(own)), Verdict::HandshakePassed, PASS);
    bench.steering.set_guard(Some((&MAC1_KEY, None))).unwrap();
    let before = bench.count(Verdict::HandshakeNoCookie);
    strangers_passed(&bench, &signed(frame, Some(own)));
    assert!(bench.count(Verdict::HandshakeNoCookie) > before);
}

#[test]
fn noise_is_hashed_at_a_bounded_rate_and_known_sources_are_read_all_the_same() {
    let mut bench = guarded();
    // More in one go than there are tokens, and far faster than they come back: some 0.7 µs each, against 5 µs.
    let flood = |bench: &Bench, noise: &[u8]| {
        let counts = || Verdict::ALL.iter().map(|verdict| bench.count(*verdict)).collect::<Vec<_>>();
        let before = counts();
        assert_eq!(run_often(bench.program, noise, 20_000), Some(DROP));
        let of = |verdict| counts()[verdict as usize] - before[verdict as usize];
        let (hashed, unread, limited) =
            (of(Verdict::InvalidMac1), of(Verdict::HandshakeUnread), of(Verdict::HandshakeLimited));
        assert_eq!(hashed + unread + limited, 20_000);
        (hashed, unread, limited)
    };
    for (frame, source) in [(v4(&message(1, 148)), "198.51.100.201"), (v6(&message(2, 92)), "2001:0:0:c9::7")] {
        let noise = changed(frame, 29, 201);
        let (_, unread, limited) = flood(&bench, &noise);
        assert!(unread > 0 && limited == 0, "{source} is not known: {unread} unread, {limited} limited");
        for _ in 0..2 {
            bench.steering.note_source(source.parse().unwrap()).unwrap();
        }
        let passes = (0..5).filter(|_| {
            flood(&bench, &v4(&message(1, 148)));
            run(bench.program, &signed(noise.clone(), None)) == Some(PASS)
        });
        assert_eq!(passes.count(), 5, "{source} is known, and its own five are read");
        let (hashed, unread, limited) = flood(&bench, &noise);
        assert!(unread == 0 && limited > 0, "{source} has its own few: {hashed} hashed, {unread} unread");
    }
}

#[test]
fn cookie_replies_have_a_rate() {
    let bench = guarded();
    let frame = v4(&message(3, 64));
    bench.expect("one", &frame, Verdict::HandshakePassed, PASS);
    assert!(strangers_passed(&bench, &frame) >= 900);
}
