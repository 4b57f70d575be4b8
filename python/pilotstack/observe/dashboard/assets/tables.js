// Tables that can be sorted and searched. Rows are made anew only if what they show has changed.

const AT_FIRST = 50;
const MORE = 200;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Table {
  // Columns have a title, value(row), and may have text(row), cell(row), kind ("number", "word").
  constructor(section, columns, { caption, empty, noun, order = 0, isDescending = false }) {
    this.section = section;
    this.columns = columns;
    this.empty = empty;
    this.noun = noun;
    this.order = order;
    this.isDescending = isDescending;
    this.most = AT_FIRST;
    this.rows = [];
    this.build(caption);
  }

  build(caption) {
    const id = this.section.dataset.list;
    this.search = element("input", { type: "search", id: `${id}-search`, autocomplete: "off" });
    this.search.addEventListener("input", () => this.render());
    const label = element("label", { htmlFor: this.search.id, textContent: `Search ${this.noun}` });
    this.bar = element("div", { className: "bar" }, label, this.search);
    this.heads = this.columns.map((column, number) => {
      const button = element("button", { type: "button", textContent: column.title });
      button.addEventListener("click", () => this.sortBy(number));
      const head = element("th", { scope: "col", className: column.kind ?? "" }, button);
      return head;
    });
    this.caption = element("p", { className: "muted", id: `${id}-about` });
    this.text = caption;
    this.body = element("tbody");
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    table.setAttribute("aria-labelledby", `${id}-title`);
    table.setAttribute("aria-describedby", this.caption.id);
    this.scroll = element("div", { className: "scroll", tabIndex: 0 }, table);
    this.scroll.setAttribute("role", "group");
    this.scroll.setAttribute("aria-label", `Table of ${this.noun}`);
    this.nothing = element("p", { className: "empty", textContent: this.empty });
    this.more = element("button", { type: "button" });
    this.more.addEventListener("click", () => {
      this.most += MORE;
      this.render();
    });
    this.section.append(this.caption, this.bar, this.nothing, this.scroll, this.more);
  }

  sortBy(number) {
    this.isDescending = this.order === number ? !this.isDescending : this.columns[number].kind === "number";
    this.order = number;
    this.render();
  }

  // `total` is how many there are, if the rows are only some.
  update(rows, total) {
    this.rows = rows;
    this.total = total ?? rows.length;
    this.render();
  }

  found() {
    const wanted = this.search.value.trim().toLowerCase();
    const { value } = this.columns[this.order];
    const text = (column, row) => String(column.text?.(row) ?? column.value(row));
    const rows = this.rows.filter(
      (row) => !wanted || this.columns.some((column) => text(column, row).toLowerCase().includes(wanted)),
    );
    const sign = this.isDescending ? -1 : 1;
    return rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
  }

  render() {
    const rows = this.found();
    const shown = rows.slice(0, this.most);
    this.section.hidden = false;
    this.bar.hidden = this.rows.length < 10;
    this.nothing.hidden = rows.length > 0;
    this.nothing.textContent = this.rows.length ? "Nothing found." : this.empty;
    this.scroll.hidden = rows.length === 0;
    this.more.hidden = rows.length <= shown.length;
    this.more.textContent = `Show more of ${rows.length}`;
    const few = shown.length < this.total ? ` ${shown.length} of ${this.total} are shown.` : "";
    this.caption.textContent = this.text + few;
    this.caption.hidden = this.rows.length === 0;
    this.heads.forEach((head, number) => {
      if (number !== this.order) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.isDescending ? "descending" : "ascending");
    });
    this.body.replaceChildren(...shown.map((row) => this.row(row)));
  }

  row(row) {
    const cells = this.columns.map((column, number) => {
      const cell = element(number === 0 ? "th" : "td", { className: column.kind ?? "" });
      if (number === 0) cell.scope = "row";
      const content = column.cell?.(row) ?? column.text?.(row) ?? column.value(row);
      cell.append(...(Array.isArray(content) ? content : [content]));
      return cell;
    });
    return element("tr", {}, ...cells);
  }
}
