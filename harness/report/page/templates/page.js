"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const announcement = document.getElementById("announcement");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Charts: one theme of ours for light and one for dark; drawn again when the reader changes it.
  function theme() {
    const [text, muted, line, ground] = dark.matches
      ? ["#e7eaee", "#a4adb8", "#2d343d", "#171b21"] : ["#1b1f24", "#57606a", "#dcdfe3", "#ffffff"];
    const category = dark.matches
      ? ["#5fb3f0", "#ff9a5c", "#98a2ad", "#4fd0a5", "#e08cc8"] : ["#0067a8", "#b84a00", "#66707b", "#007a5a", "#97408a"];
    const ramp = dark.matches ? ["#31485f", "#5a93c4", "#c9e6ff"] : ["#b9d3e8", "#4a8fc4", "#08306b"];
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: null, font, view: { stroke: null }, range: { category, ramp, heatmap: ramp },
      axis: {
        labelColor: muted, titleColor: text, gridColor: line, domainColor: muted, tickColor: muted, labelFontSize: 12,
        titleFontSize: 12, titleFontWeight: "normal", labelLimit: 140,
      },
      legend: { labelColor: text, titleColor: text, labelFontSize: 12, titleFontSize: 12, symbolSize: 90 },
      mark: { color: category[0] }, point: { color: category[0], fill: null }, bar: { color: category[0] },
      rule: { color: muted }, tick: { color: text }, line: { color: muted }, text: { color: text },
      style: {
        "busy-label": { color: ground }, label: { color: text }, // text on a filled bar, and anywhere else
        halo: { color: ground, stroke: ground, strokeWidth: 4, strokeJoin: "round" }, // behind text above lines
      },
      aria: false, // the element around it says what is to be seen
    };
  }

  async function draw() {
    for (const [id, spec] of Object.entries(content.charts)) {
      const place = document.getElementById(id);
      try {
        await window.vegaEmbed(place, { ...spec, datasets: { ...content.data, ...spec.datasets } }, {
          mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: theme(), tooltip: { theme: dark.matches ? "dark" : "light" },
        });
        place.style.minHeight = "";
      } catch (error) {
        place.textContent = `This chart could not be drawn: ${error.message}`;
        place.classList.add("failed");
        console.error(error);
      }
    }
    document.body.dataset.drawn = dark.matches ? "dark" : "light";
  }

  // Tables: the button in a column's head sorts, numbers as numbers, what is missing last.
  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  }

  function sort(table, head, direction) {
    const column = [...head.parentElement.children].indexOf(head);
    const factor = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [row.children[column].dataset.sort, row]);
    keyed.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : factor * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
  }

  // On a narrow page the names of the sections would push the answer down.
  const beside = window.matchMedia("(min-width: 60rem)");
  const fold = () => { document.querySelector("#sections details").open = beside.matches; };
  beside.addEventListener("change", fold);
  fold();

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const head of table.tHead.rows[0].children) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = head.classList.contains("number") ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        const direction = head.getAttribute("aria-sort") === first ? second : first;
        sort(table, head, direction);
        announcement.textContent = `Sorted by ${button.textContent}, ${direction}`;
      });
    }
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.textContent);
        announcement.textContent = button.textContent = "Copied";
      } catch { // the browser does not allow it: mark the text, so that the keyboard can copy it
        window.getSelection().selectAllChildren(code);
        announcement.textContent = button.textContent = "Selected";
      }
    });
  }

  // A running study: the page loads itself again and looks as it did before, unless it is paused.
  const key = `report:${location.pathname}`;
  const pause = document.getElementById("pause");
  // What has the keyboard focus: the nearest part with an id, and its number among what is in there.
  function address(element) {
    const part = element?.closest("[id]");
    return part ? [part.id, [...part.querySelectorAll("*")].indexOf(element)] : null;
  }
  function remember() {
    const sorted = [...document.querySelectorAll("th[aria-sort]")].map((head) => [
      head.closest("table").id, [...head.parentElement.children].indexOf(head), head.getAttribute("aria-sort"),
    ]);
    const open = [...document.querySelectorAll("details")].map((one) => one.open);
    const within = [...document.querySelectorAll(".scroll")].map((one) => [one.id, one.scrollLeft, one.scrollTop]);
    const focus = address(document.activeElement);
    sessionStorage.setItem(key, JSON.stringify({ sorted, open, within, focus, scroll: window.scrollY }));
  }
  function recall() {
    const state = JSON.parse(sessionStorage.getItem(key) ?? "null");
    sessionStorage.removeItem(key);
    if (!state) return;
    history.scrollRestoration = "manual";
    document.querySelectorAll("details").forEach((one, index) => { one.open = state.open[index] ?? false; });
    for (const [id, column, direction] of state.sorted) {
      const table = document.getElementById(id);
      const head = table?.tHead.rows[0].children[column];
      if (head) sort(table, head, direction);
    }
    for (const [id, left, top] of state.within) document.getElementById(id)?.scrollTo({ left, top, behavior: "instant" });
    if (state.focus) {
      const part = document.getElementById(state.focus[0]);
      (part?.querySelectorAll("*")[state.focus[1]] ?? part)?.focus({ preventScroll: true });
    }
    window.scrollTo({ top: state.scroll, behavior: "instant" });
    return state.scroll;
  }
  const scroll = recall();
  if (pause) {
    const paused = () => pause.getAttribute("aria-pressed") === "true";
    pause.addEventListener("click", () => pause.setAttribute("aria-pressed", String(!paused())));
    setInterval(() => {
      if (paused() || document.hidden || !window.getSelection().isCollapsed) return;
      remember();
      location.reload();
    }, 5000);
  }

  dark.addEventListener("change", draw);
  draw().then(() => {
    if (scroll !== undefined && Math.abs(window.scrollY - scroll) > 1) window.scrollTo({ top: scroll, behavior: "instant" });
  });
})();
