"use strict";
// Theme, the chart's slider and legend, sorting, finding. Without scripts all can be read, too.
const one = (q, from = document) => from.querySelector(q);
const all = (q, from = document) => [...from.querySelectorAll(q)];

const themes = ["system", "light", "dark"];
let theme = 0;
one("#theme").addEventListener("click", (event) => {
  theme = (theme + 1) % themes.length;
  if (theme) document.documentElement.dataset.theme = themes[theme];
  else delete document.documentElement.dataset.theme;
  event.target.textContent = "Theme: " + themes[theme];
});

const data = one("#bins") && JSON.parse(one("#bins").textContent);
if (data) {
  const svg = one("#chart svg"), slider = one("#bin"), cursor = one(".cursor");
  const left = 56, base = 246, high = base - 12, columns = data.rows[0].length;
  const wide = (1000 - left) / columns, off = new Set();
  const time = (ns) => (ns >= 1e9 ? (ns / 1e9).toFixed(2) + " s" : (ns / 1e6).toFixed(0) + " ms");
  const tell = () => {
    const at = +slider.value, counts = data.rows.map((row, n) => [data.names[n], row[at], n])
      .filter(([, count, n]) => count && !off.has(n));
    cursor.setAttribute("x", left + at * wide);
    const text = time(at * data.ns) + " to " + time((at + 1) * data.ns) + ": " +
      (counts.map(([name, count]) => name + " " + count.toLocaleString("en")).join(", ") || "no exit");
    one("#told").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  const draw = () => {
    const floor = new Array(columns).fill(0);
    data.rows.forEach((row, n) => {
      const group = one("g.s" + n, svg), bars = all("rect", group);
      group.classList.toggle("off", off.has(n));
      if (off.has(n)) return;
      let bar = 0;
      row.forEach((count, column) => {
        if (!count) return;
        floor[column] += count;
        bars[bar++].setAttribute("y", base - floor[column] / data.top * high);
      });
    });
    tell();
  };
  slider.addEventListener("input", tell);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * 1000 - left;
    slider.value = Math.max(0, Math.min(columns - 1, Math.floor(x / wide)));
    tell();
  });
  all(".key").forEach((key) => key.addEventListener("click", () => {
    const n = +key.dataset.s;
    if (!off.delete(n)) off.add(n);
    key.setAttribute("aria-pressed", String(!off.has(n)));
    draw();
  }));
  tell();
}

all("th .sort").forEach((button) => button.addEventListener("click", () => {
  const head = button.closest("th"), row = head.parentNode, at = [...row.children].indexOf(head);
  const down = head.getAttribute("aria-sort") !== "descending";
  all("th", row).forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = one("tbody", head.closest("table"));
  const key = (line) => line.children[at].dataset.s ?? line.children[at].textContent;
  const compare = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? a.localeCompare(b) : a - b);
  [...body.children].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1))
    .forEach((line) => body.append(line));
}));

const sift = () => {
  const channel = one("#chan")?.value ?? "", rings = one("#rings")?.checked ?? true;
  all("input[data-list]").forEach((input) => {
    const list = document.getElementById(input.dataset.list), wanted = input.value.toLowerCase();
    [...list.children].forEach((row) => {
      const bus = row.dataset.c !== undefined;
      row.hidden = (wanted && !row.textContent.toLowerCase().includes(wanted)) ||
        (bus && channel !== "" && row.dataset.c !== channel) ||
        (bus && !rings && row.classList.contains("ring"));
    });
  });
};
all("input[data-list], #chan, #rings").forEach((input) => input.addEventListener("input", sift));

const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
all("main section").forEach((part) => new IntersectionObserver(([entry]) => {
  if (!entry.isIntersecting) return;
  links.forEach((link) => link.removeAttribute("aria-current"));
  links.get(part.id).setAttribute("aria-current", "true");
}, { rootMargin: "-20% 0px -70% 0px" }).observe(part));
