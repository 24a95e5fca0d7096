//! The parser: every key, every mistake with its number, and the same outcome whatever the pieces.

use proptest::prelude::*;

use super::*;

const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Everything that comes of a stream, given in pieces of these sizes in turn.
fn run(input: &[u8], sizes: &[usize]) -> Vec<Result<Parsed, RequestError>> {
    let (mut parser, mut outcomes, mut rest) = (Parser::default(), Vec::new(), input);
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
        while !piece.is_empty() {
            let (taken, outcome) = parser.feed(piece);
            piece = &piece[taken..];
            if let Some(outcome) = outcome {
                outcomes.push(outcome.clone());
                if outcome.is_err_and(RequestError::is_fatal) {
                    return outcomes;
                }
            }
        }
        rest = later;
    }
    outcomes
}

fn set(lines: &str) -> Result<Update, RequestError> {
    match run(format!("set=1\n{lines}\n").as_bytes(), &[usize::MAX]).as_slice() {
        [Ok(Parsed::Set(update))] => Ok(update.clone()),
        [Err(error)] => Err(*error),
        other => panic!("{lines}: {other:?}"),
    }
}

#[test]
fn every_key_is_understood() {
    let update = set(&format!(
        "private_key={KEY}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\npublic_key={KEY}\n\
         update_only=true\npreshared_key={}\nendpoint=[2001:db8::1]:4500\npersistent_keepalive_interval=25\n\
         allowed_ip=9.9.9.9/32\nreplace_allowed_ips=true\nallowed_ip=10.0.0.1/8\nallowed_ip=-fd00::/128\n\
         protocol_version=1\npublic_key={ZERO}\nremove=true\n",
        KEY.to_uppercase()
    ))
    .unwrap();
    let mut key = [0; 32];
    hex::decode_to_slice(KEY, &mut key).unwrap();
    let change = |address: &str, prefix, remove| AllowedIpChange { address: address.parse().unwrap(), prefix, remove };
    let first = PeerUpdate {
        public_key: key,
        update_only: true,
        preshared_key: Some(Some(key.into())),
        endpoint: Some("[2001:db8::1]:4500".parse().unwrap()),
        persistent_keepalive: Some(25),
        replace_allowed_ips: true,
        allowed_ips: vec![change("10.0.0.1", 8, false), change("fd00::", 128, true)],
        ..PeerUpdate::default()
    };
    let second = PeerUpdate { remove: true, ..PeerUpdate::default() };
    let expected = Update {
        private_key: Some(Some(key.into())),
        listen_port: Some(51820),
        fwmark: Some(u32::MAX),
        replace_peers: true,
        peers: vec![first, second],
    };
    assert_eq!(update, expected);
}

#[test]
fn keys_of_zeros_take_a_key_away() {
    let update = set(&format!("private_key={ZERO}\npublic_key={KEY}\npreshared_key={ZERO}\n")).unwrap();
    assert_eq!(update.private_key, Some(None));
    assert_eq!(update.peers[0].preshared_key, Some(None));
    assert_eq!(set("").unwrap(), Update::default());
}

#[test]
fn scopes_are_names_or_numbers() {
    let scope = |text: &str| match endpoint(text) {
        Some(SocketAddr::V6(address)) => address.scope_id(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(scope("[fe80::1%7]:1"), 7);
    assert_eq!(scope("[fe80::1%lo]:1"), nix::net::if_::if_nametoindex("lo").unwrap());
    assert_eq!(endpoint("[fe80::1%no-such-device]:1"), None);
}

#[test]
fn mistakes_have_the_numbers_of_wireguard_go() {
    let peer = format!("public_key={KEY}\n");
    let bad_gateway = [
        "private_key=",
        "private_key=00",
        "private_key=zz",
        &format!("private_key={KEY}00"),
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "fwmark=4294967296",
        "fwmark=0x1",
        "replace_peers=false",
        "replace_peers=",
        "public_key=ab",
        "allowed_ip=10.0.0.0/8",
        "protocol_version=1",
        "nonsense=1",
        "=",
        " listen_port=1",
        "listen_port=1\r",
    ];
    let bad_peer = [
        "private_key=00",
        "listen_port=1",
        "update_only=1",
        "remove=false",
        "preshared_key=12",
        "endpoint=1.2.3.4",
        "endpoint=1.2.3.4:99999",
        "endpoint=name:1",
        "endpoint=[::1]",
        "endpoint=::1:80:x",
        "persistent_keepalive_interval=off",
        "persistent_keepalive_interval=65536",
        "replace_allowed_ips=false",
        "allowed_ip=10.0.0.0",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0/08",
        "allowed_ip=10.0.0.0/+8",
        "allowed_ip=::/129",
        "allowed_ip=::/256",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=fe80::1%lo/64",
        "allowed_ip=",
        "protocol_version=2",
        "Remove=true",
    ];
    for line in bad_gateway {
        assert_eq!(set(&format!("{line}\n")).map_err(RequestError::errno), Err(-libc::EINVAL), "{line:?}");
    }
    for line in bad_peer {
        assert_eq!(set(&format!("{peer}{line}\n")).map_err(RequestError::errno), Err(-libc::EINVAL), "{line:?}");
    }
    assert_eq!(set("listen_port\n").map_err(RequestError::errno), Err(-libc::EPROTO));
}

#[test]
fn a_mistake_spoils_its_own_request_alone() {
    let input = b"set=1\nlisten_port=x\nfwmark=1\n\nget=1\nx=1\n\nget=1\n\nset=1\n\nbogus=1\nget=1\n\n";
    let expected = [
        Err(RequestError::BadValue("listen_port")),
        Err(RequestError::TrailingLine),
        Ok(Parsed::Get),
        Ok(Parsed::Set(Update::default())),
        Err(RequestError::UnknownOperation),
    ];
    assert_eq!(run(input, &[usize::MAX]), expected);
}

#[test]
fn lines_and_requests_are_bounded() {
    let long = [b"set=1\n".as_slice(), &[b'a'; LINE_BYTES_MAX + 1]].concat();
    assert_eq!(run(&long, &[7]), [Err(RequestError::LineTooLong)]);
    let line = format!("fwmark={:0>width$}\n", 1, width = LINE_BYTES_MAX - "fwmark=".len());
    assert_eq!(set(&line).unwrap().fwmark, Some(1));
    let lines = line.repeat(REQUEST_BYTES_MAX / line.len() + 1);
    let large = run(format!("set=1\n{lines}\n").as_bytes(), &[usize::MAX]);
    assert_eq!(large, [Err(RequestError::RequestTooLarge)]);
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        lines in proptest::collection::vec(proptest::sample::select(vec![
            "set=1", "get=1", "", "", "listen_port=1", "listen_port=x", "allowed_ip=::/0", "replace_peers=true",
            "public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33", "rubbish", "fwmark=7",
        ]), 0..30),
        sizes in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        let input = lines.join("\n");
        prop_assert_eq!(run(input.as_bytes(), &sizes), run(input.as_bytes(), &[usize::MAX]));
    }

    #[test]
    fn random_bytes_never_panic(
        input in proptest::collection::vec(any::<u8>(), 0..600),
        sizes in proptest::collection::vec(1_usize..300, 1..4),
    ) {
        let mut request = b"set=1\n".to_vec();
        request.extend(&input);
        prop_assert_eq!(run(&request, &sizes), run(&request, &[1]));
        prop_assert_eq!(run(&input, &sizes), run(&input, &[usize::MAX]));
    }
}
