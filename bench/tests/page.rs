//! The report's page in a browser: the plots are there, in their colours, labelled with units, in light and in dark.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail as the test itself does")]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

const BROWSER: &str = "/usr/bin/chromium";

/// A browser's picture of the page, as the number of pixels of each colour.
fn colours(page: &Path, settings: &str) -> HashMap<[u8; 3], usize> {
    let picture = page.with_extension("png");
    let shot = format!("--screenshot={}", picture.display());
    browser(page, &["--window-size=1400,2400", "--hide-scrollbars", settings, &shot]);
    let file = std::io::BufReader::new(std::fs::File::open(picture).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let mut colours = HashMap::new();
    for pixel in pixels[..info.buffer_size()].chunks_exact(info.color_type.samples()) {
        *colours.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
    }
    colours
}

fn browser(page: &Path, options: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["120", BROWSER, "--headless", "--no-sandbox", "--disable-gpu"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_shows_the_plots() {
    if !Path::new(BROWSER).exists() {
        assert!(std::env::var_os("LINEGATE_REQUIRE_PEERS").is_none(), "no {BROWSER}: run cargo xtask setup");
        eprintln!("no {BROWSER}: not tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("run.html");
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/run.json");
    let report = Command::new(env!("CARGO_BIN_EXE_linegate-bench"))
        .arg("report")
        .arg(run)
        .arg("--html")
        .arg(&page)
        .status()
        .unwrap();
    assert!(report.success());

    let dom = browser(&page, &["--dump-dom"]);
    // Two sizes of bars, two of lines, and a picture of percentile curves for each pair.
    assert_eq!(dom.matches("<svg").count(), 8, "{dom}");
    for words in ["throughput, packets/s", "latency, µs", "inner bytes", "peers", "percentile, %", "99.9"] {
        let shown = dom.matches(&format!(">\n{words}\n</text>")).count();
        assert!(shown >= 2, "{words}: {shown} times in {dom}");
    }
    assert!(dom.contains("kernel · 64, 1420: not run: this kernel has no WireGuard"), "{dom}");

    // The first two series' colours, as light pages and dark ones have them, and the page's ground.
    let light = colours(&page, "--blink-settings=preferredColorScheme=1");
    let dark = colours(&page, "--blink-settings=preferredColorScheme=0");
    for (shown, hidden, wanted) in [
        (&light, &dark, [[0x2A, 0x78, 0xD6], [0xED, 0xA1, 0x00], [0xF6, 0xF5, 0xF1]]),
        (&dark, &light, [[0x39, 0x87, 0xE5], [0xC9, 0x85, 0x00], [0x11, 0x11, 0x10]]),
    ] {
        for colour in wanted {
            let count = |of: &HashMap<_, _>| of.get(&colour).copied().unwrap_or(0);
            assert!(count(shown) > 5_000, "{colour:02x?}: {} pixels", count(shown));
            assert!(count(hidden) < count(shown) / 50, "{colour:02x?} does not follow what the reader prefers");
        }
    }
}
