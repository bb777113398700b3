-- sysbench's oltp_write_only with the row ids in a range of its own, so that two nodes can be
-- written to at once without conflicts: ids first_id .. first_id + range_size - 1.
--
--   sysbench tests/workload/oltp_write_only_range.lua --first_id=1 --range_size=50000 ... run

require("oltp_common")

sysbench.cmdline.options.first_id = {"First row id that this run writes", 1}
sysbench.cmdline.options.range_size = {"How many row ids this run writes", 50000}

function prepare_statements()
   if not sysbench.opt.skip_trx then
      prepare_begin()
      prepare_commit()
   end
   prepare_index_updates()
   prepare_non_index_updates()
   prepare_delete_inserts()
end

-- oltp_common draws every id from 1 .. table_size.
local draw = sysbench.rand.default
sysbench.rand.default = function(low, high)
   if low == 1 and high == sysbench.opt.table_size then
      local first = sysbench.opt.first_id
      return draw(first, first + sysbench.opt.range_size - 1)
   end
   return draw(low, high)
end

function event()
   if not sysbench.opt.skip_trx then
      begin()
   end
   execute_index_updates()
   execute_non_index_updates()
   execute_delete_inserts()
   if not sysbench.opt.skip_trx then
      commit()
   end
end
