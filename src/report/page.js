'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const graph = document.getElementById('graph');
  const inside = document.getElementById('inside');
  const matched = document.getElementById('matched');
  const ROW = 20;
  const THIN = 0.6;
  const HUES = { 1: 130, 2: 210, 3: 30, 4: 30, 5: 280 };

  // A frame: [name, objects, bytes, own objects, own bytes, rank, children]
  const name = node => data.strings[node[0]];
  const parents = new Map();
  const open = [data.root];
  while (open.length) {
    const node = open.pop();
    for (const child of node[6]) { parents.set(child, node); open.push(child); }
  }
  let weight = 2, focus = data.root, wanted = '';

  const bytes = n => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
    return `${unit ? n.toPrecision(n < 1000 ? 3 : 4) : n} ${units[unit]}`;
  };
  const count = n => n.toLocaleString('en-US');
  const share = n => `${(100 * n / Math.max(1, data.root[weight])).toFixed(1)} %`;
  const about = node => `${bytes(node[2])}, ${count(node[1])} objects, ${share(node[weight])}`;
  const is_found = node => wanted !== '' && name(node).toLowerCase().includes(wanted);

  const color = node => {
    const text = name(node);
    let sum = 0;
    for (let i = 0; i < text.length; i++) sum = (sum * 31 + text.charCodeAt(i)) >>> 0;
    const hue = HUES[node[5]];
    return hue === undefined ? `hsl(0 0% ${72 + sum % 5 * 3}%)` : `hsl(${hue} 55% ${66 + sum % 5 * 3}%)`;
  };

  const frame = (node, depth, x, width, above) => {
    const box = document.createElement('div');
    box.className = `frame${above ? ' above' : ''}${is_found(node) ? ' found' : ''}`;
    box.tabIndex = 0;
    box.setAttribute('role', 'button');
    box.style.cssText = `top:${depth * ROW}px;left:${x}px;width:${width}px;background:${color(node)}`;
    if (width < 12) box.style.padding = '0';
    if (width > 24) box.textContent = name(node);
    box.title = `${name(node)}\n${about(node)}`;
    const go = () => { focus = node; draw(); };
    box.onclick = go;
    box.onkeydown = event => { if (event.key === 'Enter') go(); };
    graph.appendChild(box);
  };

  const cell = (row, text, kind) => {
    const td = row.insertCell();
    td.textContent = text;
    td.className = kind;
    return td;
  };

  const describe = () => {
    inside.replaceChildren();
    const head = document.createElement('p');
    const title = document.createElement('span');
    title.className = 'name';
    title.textContent = name(focus);
    head.append(title, ` ${about(focus)}; ${bytes(focus[4])} in objects of its own`);
    inside.append(head);
    const table = document.createElement('table');
    const children = [...focus[6]].sort((a, b) => b[weight] - a[weight]).slice(0, 20);
    for (const child of children) {
      const row = table.insertRow();
      cell(row, name(child), 'name');
      cell(row, bytes(child[2]), 'number');
      cell(row, count(child[1]), 'number');
      cell(row, share(child[weight]), 'number');
      row.style.cursor = 'pointer';
      row.onclick = () => { focus = child; draw(); };
    }
    inside.append(table);
    const more = focus[6].length - children.length;
    if (more > 0) inside.append(`${count(more)} more`);
  };

  const draw = () => {
    graph.replaceChildren();
    const width = graph.clientWidth;
    const line = [];
    for (let node = focus; node; node = parents.get(node)) line.unshift(node);
    line.slice(0, -1).forEach((node, depth) => frame(node, depth, 0, width, true));
    let deepest = line.length;
    const todo = [[focus, line.length - 1, 0, width]];
    while (todo.length) {
      const [node, depth, x, w] = todo.pop();
      frame(node, depth, x, Math.max(1, w - 0.5), false);
      deepest = Math.max(deepest, depth + 1);
      let at = x;
      for (const child of [...node[6]].sort((a, b) => b[weight] - a[weight])) {
        const of_child = node[weight] ? w * child[weight] / node[weight] : 0;
        if (of_child >= THIN) todo.push([child, depth + 1, at, of_child]);
        at += of_child;
      }
    }
    graph.style.height = `${deepest * ROW}px`;
    describe();
  };

  const search = () => {
    wanted = document.getElementById('search').value.trim().toLowerCase();
    let sum = 0, frames = 0;
    const todo = [[data.root, false]];
    while (todo.length) {
      const [node, within] = todo.pop();
      const found = is_found(node);
      if (found) { frames += 1; if (!within) sum += node[weight]; }
      for (const child of node[6]) todo.push([child, within || found]);
    }
    matched.textContent = wanted ? `${share(sum)} in ${count(frames)} frames` : '';
    draw();
  };

  document.getElementById('search').oninput = search;
  document.getElementById('whole').onclick = () => { focus = data.root; draw(); };
  for (const button of document.querySelectorAll('[data-weight]')) {
    button.onclick = () => {
      weight = Number(button.dataset.weight);
      for (const other of document.querySelectorAll('[data-weight]')) other.setAttribute('aria-pressed', other === button);
      search();
    };
  }
  for (const row of document.querySelectorAll('tr.owner')) {
    const toggle = () => {
      const is_open = row.getAttribute('aria-expanded') === 'true';
      row.setAttribute('aria-expanded', !is_open);
      row.nextElementSibling.hidden = is_open;
    };
    row.onclick = toggle;
    row.onkeydown = event => { if (event.key === 'Enter') toggle(); };
  }
  let last = 0;
  addEventListener('resize', () => { if (graph.clientWidth !== last) { last = graph.clientWidth; draw(); } });
  addEventListener('keydown', event => { if (event.key === 'Escape') { focus = data.root; draw(); } });
  draw();
})();
