"use strict";
// The page reads whole without this script. With it: one release at a time, a closer look, and how images grew.
(() => {
  const section = document.getElementById("dsvs");
  if (!section) return;
  const releases = [...section.querySelectorAll(".release")].map(readRelease);
  const stage = section.querySelector(".console");
  const lens = { image: stage.querySelector(".lens img"), name: stage.querySelector("b"), text: stage.querySelector(".lens span") };
  const slider = stage.querySelector("input");
  const output = stage.querySelector("output");
  const play = stage.querySelector(".play");
  let shown = releases[0];
  let chosen = null;
  let timer = 0;

  function readRelease(element) {
    const tiles = [...element.querySelectorAll(".tile")];
    const block = element.querySelector(".frames");
    const growth = block ? JSON.parse(block.textContent) : null;
    const finals = tiles.map((tile) => tile.firstElementChild.src);
    return { element, tiles, growth, finals };
  }

  function showRelease(release) {
    stop();
    shown = release;
    for (const other of releases) other.element.hidden = other !== release;
    const steps = release.growth ? release.growth.iterations.length - 1 : 0;
    stage.querySelector(".growth").hidden = steps === 0;
    slider.max = String(Math.max(1, steps));
    slider.value = slider.max;
    grow(steps);
    choose(release.tiles[0]);
  }

  function choose(tile) {
    if (chosen) chosen.classList.remove("chosen");
    for (const other of shown.tiles) other.tabIndex = other === tile ? 0 : -1;
    chosen = tile;
    tile.classList.add("chosen");
    describe();
  }

  function describe() {
    const image = chosen.firstElementChild;
    lens.image.src = image.src;
    lens.image.className = image.className;
    lens.image.width = lens.image.height = image.className ? 64 : 112;
    lens.name.textContent = "class " + chosen.dataset.class + ", no. " + chosen.dataset.rank;
    lens.text.textContent = chosen.title;
  }

  function grow(step) {
    const { growth, tiles, finals } = shown;
    const last = !growth || step >= growth.iterations.length - 1;
    tiles.forEach((tile, place) => {
      const frames = growth ? growth.images[place] : null;
      tile.firstElementChild.src = last || !frames ? finals[place] : frames[step];
      tile.classList.toggle("ungrown", !last && !frames);
    });
    if (growth) {
      const total = growth.iterations[growth.iterations.length - 1];
      output.textContent = growth.iterations[step] + " of " + total;
      slider.setAttribute("aria-valuetext", "iteration " + growth.iterations[step] + " of " + total);
    }
    if (chosen) describe();
  }

  function stop() {
    window.clearInterval(timer);
    timer = 0;
  }

  function keyed(event) {
    const at = shown.tiles.indexOf(event.target.closest(".tile"));
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: shown.tiles.length - 1 - at };
    let to = at + (moves[event.key] ?? 0);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") to = neighbour(at, event.key === "ArrowDown");
    else if (!(event.key in moves)) return;
    if (at < 0) return;
    event.preventDefault();
    const tile = shown.tiles[Math.min(Math.max(to, 0), shown.tiles.length - 1)];
    choose(tile);
    tile.focus();
  }

  // The tile that the eye sees below or above.
  function neighbour(at, down) {
    const from = shown.tiles[at].getBoundingClientRect();
    let best = at;
    let least = Infinity;
    shown.tiles.forEach((tile, place) => {
      const box = tile.getBoundingClientRect();
      const rows = down ? box.top - from.top : from.top - box.top;
      const distance = rows * 1000 + Math.abs(box.left - from.left);
      if (rows > 1 && distance < least) [best, least] = [place, distance];
    });
    return best;
  }

  section.addEventListener("keydown", (event) => event.target.closest(".tile") && keyed(event));
  for (const kind of ["mouseover", "focusin", "click"]) {
    section.addEventListener(kind, (event) => {
      const tile = event.target.closest(".tile");
      if (tile && tile !== chosen) choose(tile);
    });
  }
  slider.addEventListener("input", () => { stop(); grow(Number(slider.value)); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    slider.value = "0";
    grow(0);
    timer = window.setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      grow(Number(slider.value));
      if (slider.value === slider.max) stop();
    }, 550);
  });
  for (const radio of section.querySelectorAll('input[name="release"]')) {
    radio.addEventListener("change", () => showRelease(releases.find((r) => r.element.id === radio.value)));
  }
  window.addEventListener("beforeprint", () => { stop(); slider.value = slider.max; grow(Number(slider.max)); });
  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
  showRelease(releases[0]);
})();
