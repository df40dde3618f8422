// A table whose rows change while people read and select. See Grid in components.py.
export default {
  template: `
    <div class="grid-frame">
      <table class="grid" :aria-label="label">
        <thead>
          <tr>
            <th v-if="selectable" class="pick">
              <input type="checkbox" aria-label="Select all that are shown" :checked="rows.length && all"
                :indeterminate.prop="some && !all" @change="pickAll($event.target.checked)">
            </th>
            <th v-for="column in columns" :key="column.name" scope="col" :class="column.kind">{{ column.label }}</th>
          </tr>
        </thead>
        <tbody>
          <tr v-for="row in rows" :key="row.id" :class="{ picked: picked.has(row.id) }" :data-id="row.id">
            <td v-if="selectable" class="pick">
              <input type="checkbox" :aria-label="'Select ' + row.id" :checked="picked.has(row.id)"
                @click="pick(row.id, $event)">
            </td>
            <td v-for="column in columns" :key="column.name" :class="column.kind" :data-label="column.label">
              <template v-if="column.kind === 'task'">
                <a :href="row[column.name].href">{{ row[column.name].text }}</a>
                <code>{{ row[column.name].note }}</code>
              </template>
              <template v-else-if="column.kind === 'status'">
                <span class="status" :data-status="row[column.name].value">{{ words(row[column.name].value) }}</span>
                <span v-if="row[column.name].overdue" class="badge">overdue</span>
                <small v-if="row[column.name].note">{{ row[column.name].note }}</small>
              </template>
              <template v-else-if="column.kind === 'llm'">
                <a v-if="row[column.name].text" :href="row[column.name].href">{{ row[column.name].text }}</a>
                <small v-else-if="row[column.name].wanted">for {{ row[column.name].wanted }}</small>
              </template>
              <template v-else-if="column.kind === 'tags'">
                <span v-for="tag in row[column.name]" :key="tag" class="tag">{{ tag }}</span>
              </template>
              <time v-else-if="column.kind === 'ago' && row[column.name]" class="ago" :datetime="row[column.name]"></time>
              <code v-else-if="column.kind === 'code'">{{ row[column.name] }}</code>
              <template v-else>{{ row[column.name] }}</template>
            </td>
          </tr>
        </tbody>
      </table>
    </div>`,
  props: { columns: Array, rows: Array, selectable: Boolean, label: String },
  emits: ["pick"],
  data: () => ({ picked: new Set(), last: null }),
  computed: {
    all() {
      return this.rows.every((row) => this.picked.has(row.id));
    },
    some() {
      return this.picked.size > 0;
    },
  },
  methods: {
    words: (value) => value.replaceAll("_", " "),
    pick(id, event) {
      const ids = this.rows.map((row) => row.id);
      const [from, to] = [ids.indexOf(event.shiftKey ? this.last : id), ids.indexOf(id)];
      const range = from < 0 ? [id] : ids.slice(Math.min(from, to), Math.max(from, to) + 1);
      for (const one of range) event.target.checked ? this.picked.add(one) : this.picked.delete(one);
      this.last = id;
      this.emitPicked();
    },
    pickAll(checked) {
      for (const { id } of this.rows) checked ? this.picked.add(id) : this.picked.delete(id);
      this.emitPicked();
    },
    unpick() {
      this.picked.clear();
      this.emitPicked();
    },
    emitPicked() {
      this.$emit("pick", [...this.picked]);
    },
  },
};
