//! Joining and cutting are each other's inverse, and what must not be joined is not.

use std::collections::HashMap;

use linegate_wire::ip::IpPacket;
use proptest::prelude::*;

use super::*;
use crate::kernel_port::segment::Cutter;
use crate::kernel_port::virtio::VNET_HEADER_BYTES;

/// What a kernel that cuts again would see.
struct Cut<'a> {
    memory: &'a [u8],
    packets: Vec<Vec<u8>>,
    writes: usize,
}

impl Cut<'_> {
    fn bytes(&self, region: Region) -> &[u8] {
        &self.memory[region.offset as usize..region.end() as usize]
    }
}

impl Writer for Cut<'_> {
    fn plain(&mut self, packet: Region) {
        let bytes = self.bytes(packet).to_vec();
        self.packets.push(bytes);
        self.writes += 1;
    }

    fn joined(&mut self, flow: &mut Flow) {
        let header = flow.finish();
        self.writes += 1;
        let mut whole = flow.headers.to_vec();
        for part in &flow.parts {
            whole.extend(self.bytes(*part));
        }
        if flow.len() == 1 {
            self.packets.push(whole);
            return;
        }
        let wire: [u8; VNET_HEADER_BYTES] = header.write();
        let header = VnetHeader::read(&wire).unwrap();
        let mut cutter = Cutter::new(&header, &whole).expect("what we join can be cut");
        let mut slot = [0; 2048];
        while let Some(len) = cutter.next(&whole, &mut slot) {
            self.packets.push(slot[..len].to_vec());
        }
    }
}

/// The checksum by definition, as slowly as it can be.
fn slow_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[derive(Debug, Clone)]
struct Spec {
    v6: bool,
    tcp: bool,
    flow: u8,
    len: usize,
    flags: u8,
    tos: u8,
    ttl: u8,
    options: bool,
    corrupt: bool,
    gap: bool,
}

/// Builds a packet that goes on where its flow is.
fn build(spec: &Spec, state: &mut HashMap<(bool, bool, u8), (u32, u16)>) -> Vec<u8> {
    let (sequence, id) = state.entry((spec.v6, spec.tcp, spec.flow)).or_insert((u32::MAX - 3000, 65_530));
    if spec.gap {
        *sequence = sequence.wrapping_add(1000);
    }
    let mut transport = vec![0, 80 + spec.flow, 1, 187];
    if spec.tcp {
        let options = if spec.options { &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..] } else { &[] };
        transport.extend(sequence.to_be_bytes());
        transport.extend([0, 0, 0, 9]);
        transport.push(u8::try_from((20 + options.len()) / 4).unwrap() << 4);
        transport.push(spec.flags);
        transport.extend([1, 0, 0, 0, 0, 0]);
        transport.extend(options);
        *sequence = sequence.wrapping_add(u32::try_from(spec.len).unwrap());
    } else {
        transport.extend(u16::try_from(8 + spec.len).unwrap().to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend((0..spec.len).map(|n| u8::try_from((n * 7 + spec.len) % 251).unwrap()));
    let len = u16::try_from(transport.len()).unwrap();
    let (addresses, mut ip) = if spec.v6 {
        let addresses = [[0x20; 16], [0x21; 16]].concat();
        let [l0, l1] = len.to_be_bytes();
        let fixed = [0x60 | spec.tos >> 4, spec.tos << 4, 0, 0, l0, l1, if spec.tcp { 6 } else { 17 }, spec.ttl];
        (addresses.clone(), [&fixed[..], &addresses].concat())
    } else {
        let addresses = vec![10, 0, 0, 1, 10, 0, 0, 2];
        let ([l0, l1], [i0, i1]) = ((20 + len).to_be_bytes(), id.to_be_bytes());
        *id = id.wrapping_add(1);
        let fixed = [0x45, spec.tos, l0, l1, i0, i1, 0x40, 0, spec.ttl, if spec.tcp { 6 } else { 17 }, 0, 0];
        let mut ip = [&fixed[..], &addresses].concat();
        let checksum = slow_checksum(&[&ip]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        (addresses, ip)
    };
    let protocol = [0, if spec.tcp { 6 } else { 17 }];
    let checksum = match slow_checksum(&[&addresses, &protocol, &len.to_be_bytes(), &transport]) {
        0 if !spec.tcp => 0xffff,
        checksum => checksum,
    };
    let at = if spec.tcp { 16 } else { 6 };
    transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    if spec.corrupt {
        *transport.last_mut().unwrap() ^= 1;
    }
    ip.extend(transport);
    ip
}

/// Joins and cuts again; gives the packets and the number of writes.
fn through(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
    let memory = packets.concat();
    let mut writer = Cut { memory: &memory, packets: Vec::new(), writes: 0 };
    let mut coalescer = Coalescer::new(true);
    let mut offset = 0;
    for packet in packets {
        let region = Region { offset, len: u32::try_from(packet.len()).unwrap() };
        coalescer.push(packet, region, &mut writer);
        offset = region.end();
    }
    coalescer.flush(&mut writer);
    (writer.packets, writer.writes)
}

fn by_flow(packets: &[Vec<u8>]) -> HashMap<(IpAddrs, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        let parsed = IpPacket::parse(packet).unwrap();
        let ports = packet[parsed.header_len()..parsed.header_len() + 4].to_vec();
        flows.entry(((parsed.source(), parsed.protocol()), ports)).or_default().push(packet.clone());
    }
    flows
}

type IpAddrs = (std::net::IpAddr, u8);

fn plain() -> Spec {
    Spec {
        v6: false,
        tcp: true,
        flow: 0,
        len: 1000,
        flags: ACK,
        tos: 0,
        ttl: 64,
        options: true,
        corrupt: false,
        gap: false,
    }
}

fn train(specs: &[Spec]) -> Vec<Vec<u8>> {
    let mut state = HashMap::new();
    specs.iter().map(|spec| build(spec, &mut state)).collect()
}

#[test]
fn a_train_of_one_flow_is_one_write() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let spec = Spec { v6, tcp, ..plain() };
        let mut specs = vec![spec.clone(); 40];
        specs.push(Spec { len: 10, ..spec });
        let packets = train(&specs);
        assert_eq!(through(&packets), (packets.clone(), 1), "v6 {v6}, tcp {tcp}");
    }
}

#[test]
fn what_must_not_be_joined_is_not() {
    let odd: &[(&str, Spec, usize)] = &[
        ("congestion marks", Spec { tos: 3, ..plain() }, 3),
        ("hop limit", Spec { ttl: 63, ..plain() }, 3),
        ("options", Spec { options: false, ..plain() }, 3),
        ("FIN", Spec { flags: ACK | super::super::transport::FIN, ..plain() }, 3),
        ("SYN", Spec { flags: ACK | 2, ..plain() }, 3),
        ("RST", Spec { flags: ACK | 4, ..plain() }, 3),
        ("URG", Spec { flags: ACK | 0x20, ..plain() }, 3),
        ("ECE", Spec { flags: ACK | 0x40, ..plain() }, 3),
        ("CWR", Spec { flags: ACK | 0x80, ..plain() }, 3),
        ("no payload", Spec { len: 0, ..plain() }, 3),
        ("a bad checksum", Spec { corrupt: true, ..plain() }, 3),
        ("a gap in the sequence", Spec { gap: true, ..plain() }, 2),
        ("a larger segment", Spec { len: 1001, ..plain() }, 3),
        ("a pushed one ends it", Spec { flags: ACK | PSH, ..plain() }, 2),
        ("a shorter one ends it", Spec { len: 999, ..plain() }, 2),
    ];
    for ((name, odd, writes), v6) in odd.iter().flat_map(|case| [(case, false), (case, true)]) {
        let plain = Spec { v6, ..plain() };
        let odd = Spec { v6, ..odd.clone() };
        let packets = train(&[plain.clone(), plain.clone(), odd, plain.clone(), plain]);
        let (out, written) = through(&packets);
        assert_eq!(out, packets, "{name}, v6 {v6}");
        assert_eq!(written, *writes, "{name}, v6 {v6}");
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let flags = prop_oneof![8 => Just(ACK), 2 => Just(ACK | PSH), 1 => any::<u8>()];
    let len = prop_oneof![6 => Just(1000usize), 1 => Just(10usize), 1 => 0usize..1400];
    let rare = || prop::bool::weighted(0.05);
    (any::<bool>(), any::<bool>(), 0u8..3, len, flags, (rare(), rare(), rare(), rare(), rare())).prop_map(
        |(v6, tcp, flow, len, flags, (marked, near, plain, corrupt, gap))| Spec {
            v6,
            tcp,
            flow,
            // A packet without payload has no byte to corrupt but its checksum's, which is as good.
            len,
            flags,
            tos: if marked { 3 } else { 0 },
            ttl: if near { 63 } else { 64 },
            options: !plain,
            corrupt,
            gap,
        },
    )
}

proptest! {
    #[test]
    fn cutting_gives_back_what_was_joined(specs in prop::collection::vec(spec(), 0..120)) {
        let packets = train(&specs);
        let (out, writes) = through(&packets);
        prop_assert_eq!(out.len(), packets.len());
        prop_assert!(writes <= packets.len());
        prop_assert_eq!(by_flow(&out), by_flow(&packets));
    }
}
