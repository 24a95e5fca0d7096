//! What must hold of every packet that arrives anywhere, and of those whom the hub does not know.

use std::net::IpAddr;

use linegate_dataplane::clock::Clock;
use linegate_wire::ip::IpPacket;
use linegate_wire::udp::UDP_HEADER_BYTES;

use super::branch::Branch;
use super::ownership::GRACE;
use super::{Churn, HEAD_BYTES, HUB_ADDRESSES, MARK, filler};

impl Churn {
    /// Takes what has arrived, everywhere, and checks it. Gives the numbers of the packets that reached branches.
    pub(super) fn receive(&mut self, actors: &[usize]) -> Vec<usize> {
        let mut arrived = Vec::new();
        let mut packets = Vec::new();
        for &branch in actors {
            self.branches[branch].receive(&mut packets, &mut self.rng);
            self.branches[branch].turn(&mut self.rng);
            for packet in packets.drain(..) {
                arrived.extend(self.reached_branch(branch, &packet));
            }
        }
        let mut buffer = [0; 2048];
        for (at, destination) in HUB_ADDRESSES.into_iter().enumerate() {
            while let Ok((len, source)) = self.host[at].recv_from(&mut buffer) {
                self.check(&buffer[..len], source.ip(), destination.parse().unwrap());
                self.tally.branch_to_host += 1;
            }
        }
        arrived
    }

    fn reached_branch(&mut self, branch: usize, inner: &[u8]) -> Option<usize> {
        let packet = IpPacket::parse(inner).unwrap();
        let destination = self.ownership.number(packet.destination()).unwrap();
        let payload = &inner[packet.header_len()..packet.total_len()];
        let Some(payload) = payload.get(UDP_HEADER_BYTES..).filter(|payload| payload.starts_with(&MARK)) else {
            // An ICMP error of the hub's host, about a packet of which it does not say when it was sent.
            assert_ne!(packet.protocol(), 17);
            let ever = self.ownership.owned(destination, branch, self.begun, Clock.now());
            assert!(ever, "branch {branch} got an error to {}, which was never its own", packet.destination());
            self.tally.errors += 1;
            return None;
        };
        let number = self.check(payload, packet.source(), packet.destination());
        let sent = &self.sent[number];
        let right = self.ownership.owned(destination, branch, sent.at, Clock.now());
        assert!(right, "packet {number} to {} reached branch {branch}, whose it is not", sent.destination);
        if sent.from.is_some() {
            self.tally.branch_to_branch += 1
        } else {
            self.tally.host_to_branch += 1
        }
        Some(number)
    }

    /// What holds of every packet that arrives anywhere: it was sent, so and only once, by whose source it has.
    fn check(&mut self, payload: &[u8], source: IpAddr, destination: IpAddr) -> usize {
        let number = usize::from_le_bytes(payload[MARK.len()..HEAD_BYTES].try_into().unwrap());
        let sent = &mut self.sent[number];
        assert!(!std::mem::replace(&mut sent.delivered, true), "packet {number} arrived twice");
        assert_eq!((source, destination, payload.len()), (sent.source, sent.destination, sent.len), "packet {number}");
        assert!(payload[HEAD_BYTES..].iter().copied().eq(filler(number, sent.len - HEAD_BYTES)), "packet {number}");
        if let Some(from) = sent.from {
            let source = self.ownership.number(source).unwrap();
            let right = self.ownership.owned(source, from, sent.at, Clock.now());
            assert!(right, "packet {number} of branch {from} arrived from {}, which is not its own", sent.source);
        }
        number
    }

    /// Whom the hub does not know gets no session.
    pub(super) fn check_removed(&self) {
        for (branch, since) in &self.removed {
            let Branch { initiated, established, .. } = self.branches[*branch];
            let late = initiated > Some(*since + GRACE) && established > initiated;
            assert!(!late, "branch {branch} was removed and got a session");
        }
    }
}
