//! Two hosts in namespaces, joined by a veth pair: a linegate and a stock peer, each with a tunnel to the other.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use xtask::netns::{Daemon, Link, Namespace};
use xtask::{peers, shell};

pub(crate) const PORT: u16 = 5182;

/// What stands at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    WireguardGo,
    Boringtun,
    Linegate,
}

/// What is tested.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) peer: Implementation,
    /// Lines of linegate's own settings; SCRATCH stands for the site's folder.
    pub(crate) settings: &'static str,
    /// linegate's kernel port.
    pub(crate) kernel_port: &'static str,
    /// linegate knows where the peer is, and the peer does not know where linegate is; else the other way round.
    pub(crate) we_begin: bool,
    pub(crate) outer_v6: bool,
    pub(crate) preshared_key: bool,
    pub(crate) queues: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            peer: Implementation::Linegate,
            settings: "",
            kernel_port: "auto",
            we_begin: false,
            outer_v6: false,
            preshared_key: false,
            queues: 1,
        }
    }
}

pub(crate) struct Site {
    pub(crate) ours: Namespace,
    pub(crate) theirs: Namespace,
    pub(crate) our_interface: String,
    pub(crate) their_interface: String,
    pub(crate) gateway: Option<Daemon>,
    pub(crate) peer: Option<Daemon>,
    pub(crate) scratch: PathBuf,
    setup: Setup,
    keys: [Keys; 2],
    psk: String,
}

#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) public: String,
}

pub(crate) fn wg_key(words: &str, input: &str) -> String {
    let line = format!("echo '{input}' | wg {words}");
    shell::output(Command::new("sh").args(["-c", &line])).unwrap().trim().to_owned()
}

fn keys() -> Keys {
    let private = wg_key("genkey", "");
    Keys { public: wg_key("pubkey", &private), private }
}

/// The peer's program; none if it is not installed, which is said.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn program(implementation: Implementation) -> Option<PathBuf> {
    let found = match implementation {
        Implementation::WireguardGo => peers::wireguard_go(),
        Implementation::Boringtun => peers::boringtun(),
        Implementation::Linegate => Some(PathBuf::from(env!("CARGO_BIN_EXE_linegate"))),
    };
    let required = std::env::var_os("LINEGATE_REQUIRE_PEERS").is_some();
    assert!(found.is_some() || !required, "{implementation:?} is not installed (cargo xtask peers)");
    if found.is_none() {
        eprintln!("SKIPPED: {implementation:?} is not installed (cargo xtask peers)");
    }
    found
}

impl Site {
    /// Brings both ends up; none if the peer is not installed. The peer knows where we are; we do not know the peer.
    pub(crate) fn new(setup: Setup) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let program = program(setup.peer)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}x{number}", std::process::id() % 100_000);
        let scratch = std::env::temp_dir().join(format!("linegate-e2e-{id}"));
        std::fs::create_dir_all(&scratch).unwrap();
        let (ours, theirs) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        let our_link = Link { name: "eth0", addresses: &["192.0.2.1/24", "fd00:2::1/64"] };
        let their_link = Link { name: "eth0", addresses: &["192.0.2.2/24", "fd00:2::2/64"] };
        ours.join(&theirs, &our_link, &their_link, setup.queues).unwrap();
        let mut site = Self {
            ours,
            theirs,
            our_interface: format!("la{id}"),
            their_interface: format!("lb{id}"),
            gateway: None,
            peer: None,
            scratch,
            setup,
            keys: [keys(), keys()],
            psk: wg_key("genpsk", ""),
        };
        site.start_gateway();
        let mut command = site.theirs.command(program);
        command.args(["-f"]);
        if setup.peer == Implementation::Boringtun {
            command.arg("--disable-drop-privileges");
        }
        command.arg(&site.their_interface);
        site.peer = Some(site.theirs.spawn(&mut command, &site.scratch.join("peer.log")).unwrap());
        await_socket(&site.their_interface, site.peer.as_ref().unwrap());
        site.configure_peer();
        Some(site)
    }

    fn psk_line(&self) -> String {
        if self.setup.preshared_key { format!("PresharedKey = {}\n", self.psk) } else { String::new() }
    }

    /// Where the host of this number is.
    fn endpoint_line(&self, host: u8) -> String {
        let address = if self.setup.outer_v6 { format!("[fd00:2::{host}]") } else { format!("192.0.2.{host}") };
        format!("Endpoint = {address}:{PORT}\n")
    }

    /// Writes our configuration file.
    pub(crate) fn write_config(&self, more: &str) {
        let [ours, theirs] = &self.keys;
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = 10.7.0.1/24, fd00:7::1/64\n[Peer]\nPublicKey = {}\n\
             AllowedIPs = 10.7.0.2/32, fd00:7::2/128\n{}{}{more}",
            ours.private,
            theirs.public,
            self.psk_line(),
            if self.setup.we_begin { self.endpoint_line(2) } else { String::new() }
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// All private and preshared keys in use.
    pub(crate) fn secrets(&self) -> [&str; 3] {
        let [ours, theirs] = &self.keys;
        [&ours.private, &theirs.private, &self.psk]
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.scratch.join("gateway.conf")
    }

    /// Starts linegate in our namespace.
    pub(crate) fn start_gateway(&mut self) {
        self.write_config("");
        let settings = self.scratch.join("gateway.toml");
        let more = self.setup.settings.replace("SCRATCH", &self.scratch.display().to_string());
        let text = format!("kernel_port = \"{}\"\n{more}", self.setup.kernel_port);
        std::fs::write(&settings, text).unwrap();
        let mut command = self.ours.command(env!("CARGO_BIN_EXE_linegate"));
        command.arg("run").arg("--config").arg(settings).arg("--wg-config").arg(self.config()).arg(&self.our_interface);
        let daemon = self.ours.spawn(&mut command, &self.scratch.join("gateway.log")).unwrap();
        await_socket(&self.our_interface, &daemon);
        self.gateway = Some(daemon);
    }

    fn configure_peer(&self) {
        let [ours, theirs] = &self.keys;
        let config = self.scratch.join("peer.conf");
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.1/32, \
             fd00:7::1/128\n{}{}",
            theirs.private,
            ours.public,
            if self.setup.we_begin { String::new() } else { self.endpoint_line(1) },
            self.psk_line()
        );
        std::fs::write(&config, text).unwrap();
        self.theirs.run(&format!("wg setconf {} {}", self.their_interface, config.display())).unwrap();
        self.theirs.ip(&format!("addr add 10.7.0.2/24 dev {}", self.their_interface)).unwrap();
        self.theirs.ip(&format!("addr add fd00:7::2/64 dev {} nodad", self.their_interface)).unwrap();
        self.theirs.ip(&format!("link set {} mtu 1420 up", self.their_interface)).unwrap();
    }

    /// Pings with payloads of these sizes; every one must be answered.
    pub(crate) fn ping_sizes(&self, from: &Namespace, to: &str, sizes: impl Iterator<Item = usize>) {
        let sizes: Vec<String> = sizes.map(|size| size.to_string()).collect();
        let script = format!("for s in {}; do ping -q -c 1 -W 5 -s $s {to} || exit 1; done", sizes.join(" "));
        shell::output(from.command("sh").args(["-c", &script])).unwrap();
    }

    /// Pings until one is answered, as the first of a session may be lost.
    pub(crate) fn await_ping(&self, from: &Namespace, to: &str, seconds: u32) -> bool {
        shell::wait_for(seconds, || from.run(&format!("ping -c 1 -W 1 {to}")).is_ok())
    }

    /// linegate's status document.
    pub(crate) fn status(&self) -> serde_json::Value {
        let mut command = self.ours.command(env!("CARGO_BIN_EXE_linegate"));
        let text = shell::output(command.args(["status", "--json", &self.our_interface])).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The sum of a worker counter.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let status = self.status();
        let workers = status["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[group][name].as_u64().unwrap_or(0)).sum()
    }

    /// Sends `megabytes` of random bytes by TCP and compares what arrives.
    pub(crate) fn transfer(&self, from: &Namespace, to: &Namespace, address: &str, megabytes: usize, name: &str) {
        self.transfer_with(from, to, address, megabytes, name, "");
    }

    /// As [`transfer`](Self::transfer); the sender runs a shell command after one half.
    pub(crate) fn transfer_with(
        &self,
        from: &Namespace,
        to: &Namespace,
        address: &str,
        megabytes: usize,
        name: &str,
        halfway: &str,
    ) {
        let (sent, received) =
            (self.scratch.join(format!("{name}.sent")), self.scratch.join(format!("{name}.received")));
        let make = format!("head -c {}M /dev/urandom > {}", megabytes, sent.display());
        shell::output(Command::new("sh").args(["-c", &make])).unwrap();
        let listen = format!(
            "import socket,shutil\ns=socket.create_server(('{address}',7007),family=socket.{})\nc,_=s.accept()\n\
             shutil.copyfileobj(c.makefile('rb'),open('{}','wb'))",
            if address.contains(':') { "AF_INET6" } else { "AF_INET" },
            received.display()
        );
        let mut server = to.command("python3");
        let mut server = to.spawn(server.args(["-c", &listen]), &self.scratch.join(format!("{name}.log"))).unwrap();
        assert!(shell::wait_for(5, || to.run("ss -Htln sport = :7007").is_ok_and(|text| !text.is_empty())));
        let send = format!(
            "import os,socket\ns=socket.create_connection(('{address}',7007),30)\nf=open('{}','rb')\n\
             s.sendfile(f,0,{})\nos.system('{halfway}')\ns.sendfile(f,{})\ns.shutdown(1)\ns.recv(1)",
            sent.display(),
            megabytes << 19,
            megabytes << 19,
        );
        shell::output(from.command("timeout").args(["120", "python3", "-c", &send])).unwrap();
        assert!(shell::wait_for(20, || server.has_ended()));
        let same = format!("cmp {} {}", sent.display(), received.display());
        shell::output(Command::new("sh").args(["-c", &same])).unwrap();
        for file in [sent, received] {
            std::fs::remove_file(file).unwrap();
        }
    }
}

/// One more host with a tunnel to our gateway, which does not know it.
pub(crate) struct Branch {
    daemon: Daemon,
    pub(crate) host: Namespace,
    pub(crate) interface: String,
    pub(crate) keys: Keys,
}

impl Branch {
    /// The branch of this number, 3 or 4, at 10.7.0.N and fd00:7::N; none if its program is not installed.
    pub(crate) fn new(site: &Site, number: u8, implementation: Implementation, psk: Option<&str>) -> Option<Self> {
        let program = program(implementation)?;
        let host = Namespace::new("c").unwrap();
        let net = if number == 3 { "198.51.100" } else { "203.0.113" };
        let (our_address, their_address) = (format!("{net}.1/24"), format!("{net}.{number}/24"));
        let our_link = Link { name: &format!("eth{number}"), addresses: &[&our_address] };
        site.ours.join(&host, &our_link, &Link { name: "eth0", addresses: &[&their_address] }, 1).unwrap();
        let interface = site.our_interface.replacen('a', &format!("c{number}"), 1);
        let mut command = host.command(program);
        command.arg("-f");
        if implementation == Implementation::Boringtun {
            command.arg("--disable-drop-privileges");
        }
        let log = site.scratch.join(format!("branch{number}.log"));
        let daemon = host.spawn(command.arg(&interface), &log).unwrap();
        await_socket(&interface, &daemon);
        let keys = keys();
        let psk = psk.map(|psk| format!("PresharedKey = {psk}\n")).unwrap_or_default();
        let text = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.0/24, fd00:7::/64\n\
             Endpoint = {net}.1:{PORT}\n{psk}",
            keys.private, site.keys[0].public
        );
        let config = site.scratch.join(format!("branch{number}.conf"));
        std::fs::write(&config, text).unwrap();
        host.run(&format!("wg setconf {interface} {}", config.display())).unwrap();
        host.ip(&format!("addr add 10.7.0.{number}/24 dev {interface}")).unwrap();
        host.ip(&format!("addr add fd00:7::{number}/64 dev {interface} nodad")).unwrap();
        host.ip(&format!("link set {interface} mtu 1420 up")).unwrap();
        Some(Self { daemon, host, interface, keys })
    }

    /// What its program wrote.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }
}

pub(crate) fn await_socket(interface: &str, daemon: &Daemon) {
    let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
    assert!(shell::wait_for(10, || socket.exists()), "{interface} did not start:\n{}", daemon.log());
}

impl Drop for Site {
    fn drop(&mut self) {
        // The daemons end before their namespaces.
        (self.gateway, self.peer) = (None, None);
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}
