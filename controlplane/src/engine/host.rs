//! What the gateway reaches outside of the workers: handshake messages, and what XDP knows of indices and load.

use std::net::IpAddr;

use linegate_dataplane::underlay::udp::HandshakeSender;
use linegate_protocol::GuardKeys;
use linegate_wire::endpoint::Endpoint;
use linegate_wire::ids::ReceiverIndex;

use super::Programs;
use crate::gateway::Outside;

/// What the gateway reaches outside of the workers.
pub struct Host {
    pub(super) sender: HandshakeSender,
    pub(super) programs: Programs,
}

impl Host {
    fn note_source(&self, address: IpAddr) {
        for program in self.programs.borrow_mut().iter_mut() {
            if let Err(error) = program.steering.note_source(address) {
                tracing::debug!(%error, "a peer's address could not be told to XDP");
            }
        }
    }
}

impl Outside for Host {
    fn send_handshake(&mut self, message: &[u8], to: &Endpoint) {
        // An initiation goes where a peer is expected, a response where one has just proved itself.
        if matches!(message.first(), Some(1 | 2)) {
            self.note_source(to.remote.ip());
        }
        // The timers send it again; the reason is for whoever looks.
        if let Err(error) = self.sender.send(message, to) {
            tracing::debug!(to = %to.remote, %error, "a handshake message could not be sent");
        }
    }

    fn receiver_added(&mut self, index: ReceiverIndex) {
        for program in self.programs.borrow_mut().iter_mut() {
            if let Err(error) = program.steering.add_receiver(index.0) {
                tracing::warn!(%error, "a receiver index could not be told to XDP");
            }
        }
    }

    fn receiver_removed(&mut self, index: ReceiverIndex) {
        for program in self.programs.borrow_mut().iter_mut() {
            if let Err(error) = program.steering.remove_receiver(index.0) {
                tracing::debug!(%error, "a receiver index could not be taken from XDP");
            }
        }
    }

    fn guard(&mut self, keys: Option<&GuardKeys>) {
        let keys = keys.map(|keys| (&keys.mac1_key, keys.cookie_secret.as_deref()));
        for program in self.programs.borrow_mut().iter_mut() {
            if let Err(error) = program.steering.set_guard(keys) {
                tracing::warn!(%error, "the keys of handshakes' macs could not be told to XDP");
            }
        }
    }

    fn under_load(&mut self, under_load: bool) {
        for program in self.programs.borrow_mut().iter_mut() {
            if let Err(error) = program.steering.set_under_load(under_load) {
                tracing::warn!(%error, "the state of load could not be told to XDP");
            }
        }
    }
}
